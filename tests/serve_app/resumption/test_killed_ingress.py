"""A stream whose ingress was killed goes on at another one, byte for byte; the two share a Redis."""

import contextlib

import httpx2
import pytest

from tests.serve_app.responses.test_killed_ingress import ingresses
from tests.serve_app.resumption.lines import COMMENT, Answer
from tests.serve_app.resumption.test_resuming import URLS
from tests.serve_app.state.redis_server import needs_redis

pytestmark = [needs_redis]

KEY = {"Idempotency-Key": "mine"}
PLAIN = {"Accept-Encoding": "identity"}


async def read(http, path, body, headers, at_event=None):
    """The answer; `at_event`: what is called when so many events have come."""
    answer, (number, call) = Answer(0, b"", {}), at_event or (None, None)
    with contextlib.suppress(httpx2.TransportError):  # of a killed ingress: the answer is what came before
        async with http.stream("POST", path, json=body, headers=headers | PLAIN) as response:
            answer.status = response.status_code
            async for piece in response.aiter_raw():
                answer.body += piece
                if number is not None and answer.num_events >= number:
                    number = call()
    return answer


@pytest.mark.parametrize("path", URLS)
async def test_a_stream_goes_on_elsewhere(tmp_path, path):
    with ingresses(tmp_path) as (first, second):
        async with first.client() as http:
            begun = await read(http, path, URLS[path], KEY, (5, first.kill))
        assert first.process.poll() is not None and begun.last_id is not None
        async with second.client() as http:
            rest = await read(http, path, URLS[path], KEY | {"Last-Event-ID": begun.last_id})
            whole = await read(http, path, URLS[path], KEY)
    assert rest.status == whole.status == 200
    assert begun.events + COMMENT.sub(b"", rest.body) == COMMENT.sub(b"", whole.body)


async def test_a_response_is_kept_once_and_its_conversation_has_each_item_once(tmp_path):
    with ingresses(tmp_path) as (first, second):
        async with first.client() as http:
            made = (await http.post("/v1/conversations", json={})).json()
            body = {"input": "hi", "conversation": made["id"], "stream": True}
            whole = await read(http, "/v1/responses", body, KEY)
        async with second.client() as http:
            again = await read(http, "/v1/responses", body, KEY)
            items = (await http.get(f"/v1/conversations/{made['id']}/items")).json()["data"]
            response = whole.body.partition(b'"id":"')[2].partition(b'"')[0].decode()
            assert (await http.get(f"/v1/responses/{response}")).json()["status"] == "completed"
    assert again.body == whole.body and [item["role"] for item in items] == ["assistant", "user"]
