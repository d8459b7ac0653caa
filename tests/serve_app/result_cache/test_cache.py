"""A deterministic request that comes again is answered without the engine; nobody gets another's answer."""

import asyncio
import itertools

import msgspec
import pytest

from configs.schema import ApiConfig
from serve_app.result_cache.cache import ResultCache
from tests.serve_app.scripted import ScriptedClient, build_app, chat, config, events, says, serving, talking_to
from tests.serve_app.toy import toy_model

URL = "/v1/chat/completions"
CACHED = ApiConfig(result_cache_bytes=100_000)
ONE, OTHER = {"authorization": "Bearer one"}, {"authorization": "Bearer other"}


async def ask(http, headers=None, url=URL, **fields):
    body = chat(temperature=0) if url == URL else {"prompt": "x", "temperature": 0}
    answer = await http.post(url, json={**body, **fields}, headers=headers or {})
    assert answer.status_code == 200, answer.text
    return answer


def joined(answer):
    return "".join(event["choices"][0]["delta"].get("content", "") for event in events(answer.text)[:-1])


async def test_the_same_request_is_answered_once_streamed_or_not():
    client = ScriptedClient(says("Hello.", logprobs=True))
    async with serving(client, CACHED) as http:
        first = await ask(http)
        again = await ask(http)
        streamed = await ask(http, stream=True)
    assert len(client.requests) == 1
    assert [one.headers["x-cache"] for one in (first, again, streamed)] == ["miss", "hit", "hit"]
    assert again.json()["choices"] == first.json()["choices"] and again.json()["usage"] == first.json()["usage"]
    assert joined(streamed) == "Hello."
    assert len({first.json()["id"], again.json()["id"], events(streamed.text)[0]["id"]}) == 3


async def test_a_stream_is_kept_too():
    client = ScriptedClient(says("Hello."))
    async with serving(client, CACHED) as http:
        streams = [await ask(http, stream=True) for _ in range(2)]
        whole = await ask(http)
    assert len(client.requests) == 1 and whole.headers["x-cache"] == "hit"
    assert [joined(one) for one in streams] == ["Hello."] * 2


async def test_nothing_is_kept_unless_the_config_says_so():
    client = ScriptedClient(says("x"))
    async with serving(client) as http:
        for _ in range(2):
            assert "x-cache" not in (await ask(http)).headers
    assert len(client.requests) == 2


async def test_a_request_that_draws_is_not_kept_unless_it_has_a_seed():
    client = ScriptedClient(says("x"))
    async with serving(client, CACHED) as http:
        for _ in range(2):
            assert "x-cache" not in (await ask(http, temperature=1)).headers
        told = [(await ask(http, temperature=1, seed=seed)).headers["x-cache"] for seed in (5, 5, 6)]
    assert told == ["miss", "hit", "miss"] and len(client.requests) == 4


DIFFERENT = [
    {},
    {"messages": [{"role": "user", "content": "other"}]},
    {"max_tokens": 5},
    {"top_k": 3},
    {"stop": "H"},
    {"n": 2},
    {"logprobs": True},
    {"cache_salt": "a"},
    {"cache_salt": "b"},
    {"response_format": {"type": "json_object"}},
    {"skip_special_tokens": False},
]


async def test_what_differs_in_anything_that_counts_is_another_request():
    script = [*says("{}"), *says("{}", index=1)]
    client = ScriptedClient(script)
    async with serving(client, CACHED) as http:
        for told in ("miss", "hit"):
            for fields in DIFFERENT:
                assert (await ask(http, **fields)).headers["x-cache"] == told, fields
        for fields in ({"user": "u"}, {"request_id": "r"}, {"priority": 3}, {"seed": 9}):
            assert (await ask(http, **fields)).headers["x-cache"] == "hit", fields
    assert len(client.requests) == len(DIFFERENT)


async def test_two_keys_never_share():
    client = ScriptedClient(says("x"))
    async with serving(client, msgspec.structs.replace(CACHED, api_keys=("one", "other"))) as http:
        told = [(await ask(http, headers)).headers["x-cache"] for headers in (ONE, OTHER, ONE, OTHER)]
    assert told == ["miss", "miss", "hit", "hit"] and len(client.requests) == 2


async def test_two_models_never_share():
    client = ScriptedClient(says("x"))
    async with serving(client, CACHED, {"a": toy_model("a"), "b": toy_model("b")}) as http:
        assert [(await ask(http, model=name)).headers["x-cache"] for name in "abab"] == ["miss"] * 2 + ["hit"] * 2


async def test_a_stop_string_and_several_prompts_are_replayed():
    client = ScriptedClient([*says("a.b", finish=None), *says("c.d", index=1, finish=None)])
    async with serving(client, CACHED) as http:
        answers = [await ask(http, url="/v1/completions", prompt=["p", "q"], n=2, stop=".") for _ in range(2)]
    assert [one.headers["x-cache"] for one in answers] == ["miss", "hit"] and len(client.requests) == 2
    assert [choice["text"] for choice in answers[1].json()["choices"]] == ["a", "c", "a", "c"]
    assert answers[0].json()["choices"] == answers[1].json()["choices"]


@pytest.mark.parametrize("script", [says("ab", finish="abort"), says("ab", finish="error"), says("ab", finish=None)])
async def test_an_answer_that_broke_off_is_not_kept(script):
    client = ScriptedClient(script)
    async with serving(client, CACHED) as http:
        for _ in range(2):
            await http.post(URL, json=chat(temperature=0, stream=True))
    assert len(client.requests) == 2


async def test_a_client_that_leaves_leaves_nothing_behind():
    client = ScriptedClient([*says("a", finish=None), 0.05, *says("b")])
    async with serving(client, CACHED) as http:
        task = asyncio.create_task(ask(http))
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        client.script = says("whole")
        assert (await ask(http)).headers["x-cache"] == "miss"


async def test_old_answers_and_too_many_are_forgotten():
    now = itertools.count()
    client = ScriptedClient(says("x" * 50))
    app = build_app(client, config(msgspec.structs.replace(CACHED, result_cache_bytes=12_000)), {"toy": toy_model()})
    async with talking_to(app) as http:
        for i in range(30):
            assert (await ask(http, max_tokens=i + 100)).headers["x-cache"] == "miss"
        assert (await ask(http, max_tokens=129)).headers["x-cache"] == "hit"
        assert (await ask(http, max_tokens=100)).headers["x-cache"] == "miss"
    small = ResultCache(msgspec.structs.replace(CACHED, result_cache_age_s=1.5), "id", lambda: float(next(now)))
    small._keep(b"k", [])
    assert small._find(b"k") is not None  # a second later
    assert small._find(b"k") is None and small.num_bytes == 0
    tiny = ResultCache(ApiConfig(result_cache_bytes=3), "id")
    tiny._keep(b"k", [(0, says("abc")[0])])
    assert tiny.num_bytes == 0
