"""Keys, limits and switches as a client meets them."""

import asyncio

import pytest

from configs.schema import AccessConfig, ApiConfig, KeyLimits
from tests.serve_app.scripted import ScriptedClient, chat, says, serving

URL = "/v1/chat/completions"


def key(name):
    return {"authorization": f"Bearer {name}"}


async def test_each_key_has_its_own_prefix_cache():
    client = ScriptedClient(says("x"))
    async with serving(client, ApiConfig(api_keys=("a", "b"))) as http:
        for name in "aba":
            assert (await http.post(URL, json=chat(cache_salt="s"), headers=key(name))).status_code == 200
    first, other, again = client.requests
    assert first.cache_salt == again.cache_salt != other.cache_salt
    assert first.tenant == again.tenant != other.tenant


async def test_a_limit_is_told_with_when_to_come_again():
    api = ApiConfig(api_keys=("a", "b"), limits=KeyLimits(requests_per_minute=2))
    async with serving(ScriptedClient(says("x")), api) as http:
        answers = [await http.post(URL, json=chat(), headers=key("a")) for _ in range(3)]
        other = await http.post(URL, json=chat(), headers=key("b"))
    assert [answer.status_code for answer in answers] == [200, 200, 429] and other.status_code == 200
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers[:2]] == ["1", "0"]
    assert answers[2].headers["retry-after"] == "30"
    error = answers[2].json()["error"]
    assert "2 requests per minute" in error["message"] and error["type"] == "RateLimitError"


async def test_each_prompt_of_a_completion_is_a_request():
    api = ApiConfig(limits=KeyLimits(requests_per_minute=4))
    async with serving(ScriptedClient(says("x")), api) as http:
        answers = [await http.post("/v1/completions", json={"prompt": ["a"] * number}) for number in (5, 2, 1)]
        last = await http.post("/v1/completions", json={"prompt": "a"})
    assert [answer.status_code for answer in answers] == [400, 200, 200] and last.status_code == 429


@pytest.mark.parametrize(
    ("url", "body", "kind"),
    [
        ("/v1/responses", {"input": "hi"}, "RateLimitError"),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}, "rate_limit_error"),
    ],
)
async def test_a_limit_holds_for_every_api_in_its_own_words(url, body, kind):
    for limits in (KeyLimits(requests_per_minute=2), KeyLimits(tokens_per_minute=30)):
        api = ApiConfig(api_keys=("a", "b"), limits=limits)
        async with serving(ScriptedClient(says("x")), api) as http:
            answers = [await http.post(url, json=body, headers=key("a")) for _ in range(3)]
            assert (await http.post(url, json=body, headers=key("b"))).status_code == 200
        assert [answer.status_code for answer in answers][-1] == 429 and answers[0].status_code == 200
        assert answers[2].json()["error"]["type"] == kind and answers[2].headers["retry-after"]


async def test_a_background_response_counts_until_it_ends():
    api = ApiConfig(limits=KeyLimits(max_concurrent_requests=1))
    async with serving(ScriptedClient([*says("a", finish=None), 0.4, *says("x")]), api) as http:
        first = (await http.post("/v1/responses", json={"input": "a", "background": True})).json()
        await asyncio.sleep(0.1)
        assert (await http.post(URL, json=chat())).status_code == 429
        second = (await http.post("/v1/responses", json={"input": "a", "background": True})).json()
        await asyncio.sleep(0.6)
        ends = [(await http.get(f"/v1/responses/{one['id']}")).json() for one in (first, second)]
    assert [end["status"] for end in ends] == ["completed", "failed"]
    assert ends[1]["error"]["code"] == "rate_limit_exceeded"


async def test_a_stream_counts_until_it_ends():
    api = ApiConfig(limits=KeyLimits(max_concurrent_requests=1))
    async with serving(ScriptedClient([0.2, *says("x")]), api) as http:
        first = asyncio.create_task(http.post(URL, json=chat(stream=True)))
        await asyncio.sleep(0.1)
        refused = await http.post(URL, json=chat())
        assert (await first).status_code == 200
        assert (await http.post(URL, json=chat())).status_code == 200
    assert refused.status_code == 429 and "1 concurrent requests" in refused.json()["error"]["message"]


async def test_tokens_are_charged_for_prompt_and_answer():
    api = ApiConfig(limits=KeyLimits(tokens_per_minute=100))
    async with serving(ScriptedClient(says("x" * 30)), api) as http:
        first = await http.post(URL, json=chat("y" * 80))
        refused = await http.post(URL, json=chat())
    assert first.json()["usage"]["total_tokens"] > 100
    assert refused.status_code == 429 and "100 tokens per minute" in refused.json()["error"]["message"]


@pytest.mark.parametrize("url", [URL, "/v1/completions", "/v1/chat/completions/batch"])
async def test_nobody_overtakes_others_by_asking(url):
    body = {"prompt": "x"} if "chat" not in url else chat()
    if "batch" in url:
        body = {"messages": [chat()["messages"]]}
    async with serving(ScriptedClient(says("x"))) as http:
        answer = await http.post(url, json={**body, "priority": -1})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "priority"


ROUTES = {"metrics": "/metrics", "status": "/status", "load": "/load", "docs": "/docs", "chat_page": "/"}


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize(("access", "stranger", "known"), [("open", 200, 200), ("key", 401, 200), ("off", 404, 404)])
async def test_each_route_has_a_switch(name, access, stranger, known):
    api = ApiConfig(api_keys=("a",), access=AccessConfig(**{name: access}))
    async with serving(ScriptedClient(), api) as http:
        assert (await http.get(ROUTES[name])).status_code == stranger
        assert (await http.get(ROUTES[name], headers=key("a"))).status_code == known
        if name == "docs":
            assert (await http.get("/openapi.json")).status_code == stranger


async def test_what_probes_ask_needs_no_key():
    client = ScriptedClient()
    async with serving(client, ApiConfig(api_keys=("a",))) as http:
        assert (await http.get("/health")).status_code == 200
        client.healthy = False
        assert (await http.get("/health")).status_code == 503
        assert (await http.get("/health/live")).status_code == 200


async def test_refused_requests_are_counted_by_key_and_limit():
    limits = KeyLimits(requests_per_minute=1)
    api = ApiConfig(api_keys=("a", "b"), limits=limits, access=AccessConfig(metrics="key"))
    async with serving(ScriptedClient(says("x")), api) as http:
        for _ in range(3):
            await http.post("/v1/chat/completions", json=chat(), headers=key("a"))
        await http.post("/v1/chat/completions", json=chat(), headers=key("b"))
        page = (await http.get("/metrics", headers=key("a"))).text
    counts = [line for line in page.splitlines() if line.startswith("manta_key_rejections_total{")]
    assert len(counts) == 1, counts
    assert counts[0].endswith('limit="requests_per_minute"} 2')


async def test_metrics_that_anybody_may_read_name_no_key():
    api = ApiConfig(api_keys=("a",), limits=KeyLimits(requests_per_minute=1))
    async with serving(ScriptedClient(says("x")), api) as http:
        for _ in range(3):
            await http.post("/v1/chat/completions", json=chat(), headers=key("a"))
        assert "manta_key" not in (await http.get("/metrics")).text
