"""X-Session-Id reaches the engine's requests, and changes nothing else."""

import pytest

from configs.schema import ApiConfig
from tests.serve_app.scripted import ScriptedClient, chat, says, serving

USER = {"role": "user", "content": "hi"}
BODIES = {
    "/v1/chat/completions": chat(temperature=0),
    "/v1/chat/completions/batch": {"messages": [[USER], [USER]]},
    "/v1/completions": {"prompt": ["a", "b"], "max_tokens": 2},
}


@pytest.mark.parametrize("url", BODIES)
async def test_every_request_of_a_session_says_so(url):
    client = ScriptedClient(says("x", finish="length"))
    async with serving(client) as http:
        for session in ("", "käse/1", "s" * 256):
            client.requests.clear()
            answer = await http.post(url, json=BODIES[url], headers={b"X-Session-Id": session.encode("latin-1")})
            assert answer.status_code == 200
            assert client.requests and {request.session for request in client.requests} == {session}


@pytest.mark.parametrize("url", BODIES)
async def test_a_body_may_name_the_session_where_no_header_does(url):
    client = ScriptedClient(says("x", finish="length"))
    async with serving(client) as http:
        for headers, session in (({}, "mine"), ({"X-Session-Id": "theirs"}, "theirs")):
            client.requests.clear()
            await http.post(url, json={**BODIES[url], "session_id": "mine"}, headers=headers)
            assert client.requests and {request.session for request in client.requests} == {session}
        answer = await http.post(url, json={**BODIES[url], "session_id": "s" * 257})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "session_id"


@pytest.mark.parametrize("url", BODIES)
async def test_a_long_one_is_refused_by_name(url):
    client = ScriptedClient(says("x"))
    async with serving(client) as http:
        answer = await http.post(url, json=BODIES[url], headers={"X-Session-Id": "s" * 257})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "X-Session-Id"
    assert not client.requests


async def test_another_session_gets_the_answer_that_is_known():
    client = ScriptedClient(says("x"))
    async with serving(client, ApiConfig(result_cache_bytes=10_000)) as http:
        for session in ("a", "b"):
            answer = await http.post(
                "/v1/chat/completions", json=BODIES["/v1/chat/completions"], headers={"X-Session-Id": session}
            )
    assert answer.headers["x-cache"] == "hit" and len(client.requests) == 1
