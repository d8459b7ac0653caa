"""Completions that bring their prompt back, with what the model thought of it."""

import pytest
import torch

from engine.runtime.async_engine import AsyncEngine
from engine.types import PromptLogprob
from serve_app.completion.echo import echo_of
from serve_app.model.gguf_tokenizer import build_gguf_tokenizer
from serve_app.text.vocabulary import read_vocabulary
from tests.serve_app.random_engine import RandomExecutor, random_engine
from tests.serve_app.scripted import ScriptedClient, build_app, config, events, says, serving, talking_to
from tests.serve_app.toy import sentencepiece_metadata, toy_model

URL = "/v1/completions"
KEYS = ("text_offset", "tokens", "token_logprobs", "top_logprobs")


@pytest.fixture
async def http():
    client = AsyncEngine(random_engine(toy_model()))
    async with talking_to(build_app(client, config(), {"toy": toy_model()})) as http:
        yield http
    await client.close()


async def post(http, **fields):
    answer = await http.post(URL, json={"echo": True, "logprobs": 2, "seed": 1, **fields})
    assert answer.status_code == 200, answer.text
    return answer


async def whole(http, **fields):
    return (await post(http, **fields)).json()


def thought(ids):
    """The log probability of every token but the first, from the definition."""
    noise = RandomExecutor(toy_model()).noise
    rows = [noise(place + 1, before).log_softmax(-1) for place, before in enumerate(ids[:-1])]
    return [row[after].item() for row, after in zip(rows, ids[1:], strict=True)], rows


@pytest.mark.parametrize("prompt", ["hello the wörld", [50, 60, 70, 2, 60], "x"])
async def test_a_prompt_is_scored_token_by_token(http, prompt):
    ids_only = {"return_token_ids": True, "return_tokens_as_token_ids": True}  # two tokens may have one text
    body = await whole(http, prompt=prompt, max_tokens=0, **ids_only)
    choice = body["choices"][0]
    ids, told = choice["prompt_token_ids"], choice["logprobs"]
    values, rows = thought(ids)
    assert told["token_logprobs"][0] is None and told["top_logprobs"][0] is None
    assert told["token_logprobs"][1:] == pytest.approx(values, abs=1e-4)
    assert told["tokens"] == [f"token_id:{token}" for token in ids]
    for top, row, token in zip(told["top_logprobs"][1:], rows, ids[1:], strict=True):
        expected = {*torch.topk(row, 2).indices.tolist(), token}
        assert next(iter(top)) == f"token_id:{token}"
        assert top == pytest.approx({f"token_id:{one}": row[one].item() for one in expected}, abs=1e-4)
    assert choice["finish_reason"] == "length" and choice["token_ids"] == []
    assert body["usage"]["completion_tokens"] == 0 and body["usage"]["prompt_tokens"] == len(ids)
    if isinstance(prompt, str):
        assert choice["text"] == prompt


async def test_scoring_an_answer_tells_what_making_it_told(http):
    made = (await whole(http, prompt="the lost", max_tokens=9, temperature=1, return_token_ids=True))["choices"][0]
    ids = made["prompt_token_ids"] + made["token_ids"]
    scored = (await whole(http, prompt=ids, max_tokens=0))["choices"][0]
    assert len(made["logprobs"]["tokens"]) == len(ids)
    for key in ("tokens", "top_logprobs"):
        assert made["logprobs"][key] == scored["logprobs"][key]
    assert made["logprobs"]["token_logprobs"][1:] == pytest.approx(scored["logprobs"]["token_logprobs"][1:], abs=1e-4)


@pytest.mark.parametrize("max_tokens", [0, 5])
@pytest.mark.parametrize("interval", [1, 3])
async def test_the_stream_joined_is_the_whole_answer(http, max_tokens, interval):
    fields = {
        "prompt": ["hello", "wörld the op", "x"],
        "n": 3,
        "max_tokens": max_tokens,
        "return_token_ids": True,
        "stream_interval": interval,
    }
    body = await whole(http, **fields)
    stream = await post(http, **fields, stream=True, stream_options={"include_usage": True})
    seen = events(stream.text)
    assert seen[-1] == "[DONE]"
    assert seen[-2]["usage"]["completion_tokens"] == body["usage"]["completion_tokens"]
    assert len(body["choices"]) == 9
    for choice in body["choices"]:
        mine = [e["choices"][0] for e in seen[:-2] if e["choices"][0]["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in mine) == choice["text"]
        for key in KEYS:
            told = [item for piece in mine if piece["logprobs"] for item in piece["logprobs"][key]]
            assert told == choice["logprobs"][key]
        assert mine[0]["prompt_token_ids"] == choice["prompt_token_ids"]
        assert [piece["finish_reason"] for piece in mine if piece["finish_reason"]] == [choice["finish_reason"]]
        num_tokens = len(choice["prompt_token_ids"]) + len(choice["token_ids"])
        assert all(len(choice["logprobs"][key]) == num_tokens for key in KEYS)


async def test_offsets_stand_where_the_tokens_do(http):
    choice = (await whole(http, prompt="hé the wor👩ld", max_tokens=4))["choices"][0]
    told = choice["logprobs"]
    assert told["text_offset"] == sorted(told["text_offset"])
    for offset, token in zip(told["text_offset"], told["tokens"], strict=True):
        if "\ufffd" not in token:
            assert choice["text"].startswith(token, offset)


async def test_a_prompt_that_was_cut_comes_back_as_it_was_used(http):
    choice = (await whole(http, prompt="hello world", max_tokens=0, truncate_prompt_tokens=3))["choices"][0]
    assert choice["text"] == "".join(choice["logprobs"]["tokens"]) and len(choice["logprobs"]["tokens"]) == 3


async def test_without_logprobs_a_prompt_alone_comes_back(http):
    body = await whole(http, prompt=["ab", "c"], max_tokens=0, logprobs=None)
    assert [(one["text"], one["logprobs"]) for one in body["choices"]] == [("ab", None), ("c", None)]
    assert body["usage"]["completion_tokens"] == 0


async def test_the_field_of_its_own_tells_as_much_as_it_asks_for(http):
    fields = {"prompt": "hello", "max_tokens": 2, "return_tokens_as_token_ids": True}
    choice = (await whole(http, **fields, logprobs=3, prompt_logprobs=1))["choices"][0]
    assert all(3 <= len(top) <= 4 for top in choice["logprobs"]["top_logprobs"][1:])
    assert all(len(told) <= 2 for told in choice["prompt_logprobs"][1:])
    assert (await whole(http, **fields))["choices"][0]["prompt_logprobs"] is None


async def test_a_choice_that_is_ahead_waits_for_the_prompt():
    first, *rest = says("ab", index=0, logprobs=True)
    scores = (PromptLogprob(5, -1.5, 2, ((6, -0.5),)),)
    script = [*says("cd", index=1, logprobs=True), type(first)(*scored_fields(first, scores)), *rest]
    async with serving(ScriptedClient(script)) as http:
        seen = events((await post(http, prompt=[4, 5], n=2, stream=True)).text)[:-1]
    assert [event["choices"][0]["index"] for event in seen[:4]] == [0, 1, 1, 1]
    assert seen[0]["choices"][0]["logprobs"]["token_logprobs"] == [None, -1.5]
    assert seen[1]["choices"][0]["logprobs"] == seen[0]["choices"][0]["logprobs"]


def scored_fields(chunk, scores):
    values = {name: getattr(chunk, name) for name in chunk.__struct_fields__}
    return {**values, "prompt_logprobs": scores}.values()


def test_tokens_around_the_text_take_no_room_in_it():
    tokenizer = build_gguf_tokenizer(sentencepiece_metadata())
    model = toy_model(tokenizer=tokenizer, vocabulary=read_vocabulary(tokenizer))
    tokens = model.encode("hello world", add_special_tokens=True)
    echo = echo_of("hello world", (1, *tokens) if tokens[0] != 1 else tokens, model, scored=True)
    assert echo.text == "hello world" and echo.offsets[:2] == (0, 0)
