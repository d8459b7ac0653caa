import msgspec
import pytest

from engine.types import RequestOutput
from tests.serve_app.scripted import ScriptedClient, events, says, serving
from tests.serve_app.toy import byte_tokens, toy_model

URL = "/v1/completions"


async def post(fields, script=None):
    client = ScriptedClient(says("ok") if script is None else script)
    async with serving(client) as http:
        return client, await http.post(URL, json=fields)


async def test_a_text_is_continued():
    client, answer = await post({"prompt": "ab"})
    body = answer.json()
    assert body["id"].startswith("cmpl-") and body["object"] == "text_completion" and body["model"] == "toy"
    absent = dict.fromkeys(("logprobs", "stop_reason", "prompt_logprobs", "prompt_token_ids", "token_ids"))
    assert body["choices"] == [{"index": 0, "text": "ok", "finish_reason": "stop", **absent}]
    assert body["service_tier"] is None and body["kv_transfer_params"] is None
    assert body["usage"]["prompt_tokens"] == 2 and body["usage"]["completion_tokens"] == 3
    assert client.requests[0].prompt == byte_tokens("ab")
    assert client.requests[0].sampling.max_tokens == 16


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("ab", [byte_tokens("ab")]),
        (["ab", "c"], [byte_tokens("ab"), byte_tokens("c")]),
        ([7, 8], [(7, 8)]),
        ([[7, 8], [9]], [(7, 8), (9,)]),
    ],
)
async def test_every_form_of_prompt_is_taken(prompt, prompts):
    client, answer = await post({"prompt": prompt, "n": 2})
    assert [request.prompt for request in client.requests] == prompts
    assert len({request.request_id for request in client.requests}) == len(prompts)


async def test_choices_come_prompt_by_prompt():
    script = [*says("a", index=0), *says("b", index=1)]
    _, answer = await post({"prompt": ["x", "yz"], "n": 2, "echo": True}, script)
    body = answer.json()
    assert [(c["index"], c["text"]) for c in body["choices"]] == [(0, "xa"), (1, "xb"), (2, "yza"), (3, "yzb")]
    assert body["usage"]["prompt_tokens"] == 3 and body["usage"]["completion_tokens"] == 8


async def test_the_stream_joined_is_the_whole_answer():
    script = [*says("aé", index=0, logprobs=True), *says("b👩", index=1, logprobs=True)]
    fields = {"prompt": ["x", "yz"], "n": 2, "logprobs": 2, "return_token_ids": True}
    _, whole = await post(fields, script)
    _, stream = await post({**fields, "stream": True, "stream_options": {"include_usage": True}}, script)
    seen = events(stream.text)
    assert seen[-1] == "[DONE]" and seen[-2]["usage"] == whole.json()["usage"] and seen[-2]["choices"] == []
    for choice in whole.json()["choices"]:
        mine = [e["choices"][0] for e in seen[:-2] if e["choices"][0]["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in mine) == choice["text"]
        assert mine[-1]["finish_reason"] == choice["finish_reason"] == "stop"
        for key in ("text_offset", "tokens", "token_logprobs", "top_logprobs"):
            told = [item for piece in mine if piece["logprobs"] for item in piece["logprobs"][key]]
            assert told == choice["logprobs"][key]
        assert [token for piece in mine for token in piece.get("token_ids", [])] == choice["token_ids"]
        assert mine[0]["prompt_token_ids"] == choice["prompt_token_ids"]


async def test_every_event_tells_ids_and_the_first_the_prompts():
    fields = {"prompt": ["x", "yz"], "logprobs": 0, "return_token_ids": True, "stream": True}
    _, stream = await post(fields, [*says("ab", index=0, logprobs=True), *says("c", index=1, logprobs=True)])
    choices = [event["choices"][0] for event in events(stream.text)[:-1]]
    assert all(len(one["token_ids"]) == len(one["logprobs"]["tokens"]) for one in choices)
    for index in (0, 1):
        first, *rest = (one for one in choices if one["index"] == index)
        assert first["prompt_token_ids"] and not any("prompt_token_ids" in one for one in rest)


async def test_the_chosen_token_is_told_without_alternatives():
    _, answer = await post({"prompt": "x", "logprobs": 0}, says("ab", logprobs=True))
    assert answer.json()["choices"][0]["logprobs"]["top_logprobs"][:2] == [{"a": -0.5}, {"b": -0.5}]


async def test_offsets_count_characters():
    _, answer = await post({"prompt": "x", "logprobs": 1}, says("abc", logprobs=True))
    logprobs = answer.json()["choices"][0]["logprobs"]
    assert logprobs["text_offset"][:3] == [0, 1, 2]
    assert logprobs["top_logprobs"][0] == {"a": -0.5}


@pytest.mark.parametrize("shown", [False, True])
async def test_offsets_stand_where_the_characters_do_that_tokens_share(shown):
    chunks = says("é👩b", logprobs=True)
    chunks.insert(0, msgspec.structs.replace(chunks[-1], finish_reason=None))  # the end token, which is ignored
    chunks = [msgspec.structs.replace(chunk, start=start) for start, chunk in enumerate(chunks)]
    fields = {"prompt": "x", "logprobs": 0, "ignore_eos": True, "skip_special_tokens": not shown}
    _, answer = await post(fields, chunks)
    choice = answer.json()["choices"][0]
    special = len(choice["logprobs"]["tokens"][0]) if shown else 0
    assert choice["text"][special:].startswith("é👩b")
    assert choice["logprobs"]["text_offset"][1:-1] == [special + at for at in (0, 0, 1, 1, 1, 1, 2)]


async def test_echo_comes_first_in_a_stream():
    _, answer = await post({"prompt": "xy", "echo": True, "stream": True})
    assert [e["choices"][0]["text"] for e in events(answer.text)[:-1]] == ["xy", "o", "k", ""]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt.0"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt.0"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
        ({"prompt": "x", "max_tokens": 0, "logprobs": 1}, "max_tokens"),
        ({"prompt": "x", "max_tokens": -1, "echo": True}, "max_tokens"),
        ({"prompt": "x", "logprobs": 1, "echo": True, "use_beam_search": True}, "echo"),
        ({"prompt": "x", "max_tokens": 0, "echo": True, "use_beam_search": True}, "echo"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x" * 600}, "prompt"),
        ({"prompt": ["x"] * 100, "n": 2}, "prompt"),
        ({"prompt": ["x", "y" * 600]}, "prompt.1"),
        ({"prompt": ["x", ""], "add_special_tokens": False}, "prompt.1"),
        ({"prompt": [[7], [8], [10**6]]}, "prompt.2"),
    ],
)
async def test_wrong_fields_are_named(fields, param):
    _, answer = await post(fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


async def test_one_prompt_that_fails_ends_the_others():
    client = ScriptedClient([RequestOutput("", 0, 0, (5,)), RuntimeError("x")])
    async with serving(client) as http:
        answer = await http.post(URL, json={"prompt": ["a", "b", "c"]})
    assert answer.status_code == 500
    assert client.num_closed == len(client.requests) == 3


async def test_tokens_of_a_text_and_back():
    async with serving(ScriptedClient()) as http:
        body = (await http.post("/tokenize", json={"prompt": "the é", "return_token_strs": True})).json()
        assert body["tokens"] == list(toy_model().encode("the é"))
        assert body["count"] == len(body["tokens"]) == len(body["token_strs"]) and body["max_model_len"] == 512
        assert (await http.post("/detokenize", json={"tokens": body["tokens"]})).json() == {"prompt": "the é"}


async def test_tokens_of_a_conversation():
    messages = [{"role": "user", "content": "hi"}]
    async with serving(ScriptedClient()) as http:
        body = (await http.post("/tokenize", json={"messages": messages, "add_generation_prompt": False})).json()
    assert tuple(body["tokens"]) == toy_model().encode("<|im_start|>user\nhi<|im_end|>\n")
    assert body["token_strs"] is None


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "prompt"),
        ("/tokenize", {"prompt": "x", "model": "no"}, "model"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [10**6]}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
    ],
)
async def test_wrong_tokens_are_refused(path, fields, param):
    async with serving(ScriptedClient()) as http:
        answer = await http.post(path, json=fields)
    assert answer.status_code in (400, 404) and answer.json()["error"]["param"] == param


async def test_many_conversations_are_answered_at_once():
    client = ScriptedClient(says("ok"))
    conversations = [[{"role": "user", "content": text}] for text in ("a", "bb", "ccc")]
    async with serving(client) as http:
        body = (await http.post("/v1/chat/completions/batch", json={"messages": conversations})).json()
    assert [(c["index"], c["message"]["content"]) for c in body["choices"]] == [(0, "ok"), (1, "ok"), (2, "ok")]
    assert body["usage"]["prompt_tokens"] == sum(len(request.prompt) for request in client.requests)
    assert body["usage"]["completion_tokens"] == 9


@pytest.mark.parametrize(
    ("fields", "param"), [({"n": 2}, "n"), ({"stream": True}, "stream"), ({"messages": []}, "messages")]
)
async def test_a_batch_has_one_choice_each_and_does_not_stream(fields, param):
    messages = [[{"role": "user", "content": "x"}]]
    async with serving(ScriptedClient()) as http:
        answer = await http.post("/v1/chat/completions/batch", json={"messages": messages, **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_server_tells_its_version_and_load():
    client = ScriptedClient([*says("a", finish=None), 0.1, *says("b")])
    async with serving(client) as http:
        assert set((await http.get("/version")).json()) == {"version"}
        assert (await http.get("/load")).json() == {"server_load": 0}
        (status,) = (await http.get("/status")).json()["data"]
        assert (status["model"], status["collective"]) == ("toy", "")
        client.healthy = False
        assert (await http.get("/status")).json()["data"] == []
        client.healthy = True
        assert (await http.get("/ping")).status_code == (await http.post("/ping")).status_code == 200
