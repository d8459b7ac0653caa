"""Every fault has the one shape, the right status and the field's name, before the first byte."""

import pytest

from configs.schema import ApiConfig
from engine.errors import ContextTooLong, EngineFailed, Overloaded, RequestError, Unavailable
from tests.serve_app.scripted import ScriptedClient, chat, events, says, serving
from tests.serve_app.toy import toy_model

URL = "/v1/chat/completions"
SMALL = ApiConfig(
    max_body_bytes=4096,
    max_messages=3,
    max_choices=4,
    max_stop=2,
    max_stop_chars=8,
    max_logit_bias=2,
    max_logprobs=5,
)


def fault(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"] == status and error["message"]
    return error


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [5]}, "messages.0"),
        ({"messages": [{"content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"image_url": "x"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": ["x", 5]}]}, "messages.0.content.1"),
        ({"messages": [{"role": "user", "content": "x"}] * 4}, "messages"),
        ({"model": 5}, "model"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"seed": 2**63}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 5}, "n"),
        ({"n": 10**18}, "n"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop.1"),
        ({"stop": ["a", "b", "c"]}, "stop"),
        ({"stop": "123456789"}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 513}, "max_tokens"),
        ({"max_tokens": 10**18}, "max_tokens"),
        ({"max_completion_tokens": 513, "max_tokens": 5}, "max_completion_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 9, "max_tokens": 5}, "min_tokens"),
        ({"min_tokens": 500}, "min_tokens"),  # the context has 512, and the prompt some
        ({"min_tokens": 500, "max_tokens": 512}, "min_tokens"),
        ({"min_tokens": 10**18}, "min_tokens"),
        ({"stop_token_ids": [10**6]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": ["1"]}, "stop_token_ids.0"),
        ({"stop_token_ids": [1, 2, 3]}, "stop_token_ids"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1000000": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": "1"}}, "logit_bias.1"),
        ({"logit_bias": {"1": 1, "2": 1, "3": 1}}, "logit_bias"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 6}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ],
)
async def test_a_wrong_field_is_named(fields, param, stream):
    async with serving(ScriptedClient(says("x")), SMALL) as http:
        answer = await http.post(URL, json={**chat(), "stream": stream, **fields})
    error = fault(answer, 400)
    assert error["param"] == param
    assert param.split(".")[0] in error["message"]


async def test_several_wrong_fields_are_told_together():
    async with serving(ScriptedClient()) as http:
        error = fault(await http.post(URL, json=chat(temperature=5, top_p=5)), 400)
    assert "temperature: must be less than or equal to 2, not 5" in error["message"] and "top_p" in error["message"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"logit_bias": {"x": 1, "5": 1, "y": 1}}, ["logit_bias: the keys 'x', 'y' are not token ids"]),
        ({"logit_bias": {"1000000": 1, "5": 1, "1000001": 1}}, ["tokens 1000000, 1000001 are out of vocabulary"]),
        ({"stop_token_ids": [10**6]}, ["token 1000000 is out of vocabulary"]),
        ({"stream_options": {"include_usage": 1, "continuous_usage_stats": 2}}, ["include_usage", "continuous_usage"]),
        ({"structured_outputs": {"regex": 5, "fit": "x"}}, ["structured_outputs.regex", "structured_outputs.fit"]),
        ({"stop": ""}, ["non-empty"]),
        ({"allowed_token_ids": []}, ["non-empty"]),
    ],
)
async def test_all_wrong_keys_of_an_object_are_told_in_the_words_that_clients_look_for(fields, words):
    async with serving(ScriptedClient()) as http:
        message = fault(await http.post(URL, json=chat(stream=True, **fields)), 400)["message"]
    assert [word for word in words if word not in message] == []


async def test_stream_options_without_stream_are_refused():
    async with serving(ScriptedClient()) as http:
        error = fault(await http.post(URL, json=chat(stream_options={"include_usage": True})), 400)
    assert error["param"] == "stream_options"


BODIES = {
    "empty": b"",
    "cut off": b'{"messages": [',
    "no object": b"[1]",
    "a string": b'"x"',
    "null": b"null",
    "trailing": b'{"messages": []} x',
    "bad utf-8": b'{"messages": "\xff"}',
    "surrogate": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "nan": b'{"temperature": NaN}',
    "infinity": b'{"temperature": -Infinity}',
    "huge float": b'{"temperature": 1e999}',
    "long number": b'{"n": ' + b"9" * 3000 + b"}",
    "bom": b"\xef\xbb\xbf{}",
    "deep arrays": b'{"messages": ' + b"[" * 1500 + b"]" * 1500 + b"}",
    "deep objects": b'{"a":' * 300 + b"1" + b"}" * 300,
    "nested in an ignored field": b'{"messages": [{"role":"user","content":"x"}], "x": ' + b"[" * 70 + b"]" * 70 + b"}",
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_is_no_plain_json_object_is_refused(name):
    async with serving(ScriptedClient(says("x")), SMALL) as http:
        answer = await http.post(URL, content=BODIES[name], headers={"content-type": "application/json"})
    fault(answer, 400)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b'{"a": "x', "cut off"),
        (b'{"a": "\xc3\xa9\xe9"}', "UTF-8: byte 0xe9 at 9"),
        (b'{"a": "\\ud83d"}', "surrogate"),
        (b'{"a": "\\ud83d x"}', "surrogate"),
        (b'{"a": "\\ud83d\\u0041"}', "surrogate"),
        (b'{"a": "\\ude00"}', "surrogate"),
        (b'{"a": "\\ud83d\\ude00', "cut off"),
        (b"{'a': 1}", "keys must be strings"),
    ],
)
async def test_what_is_wrong_with_a_body_is_told(body, word):
    async with serving(ScriptedClient()) as http:
        answer = await http.post(URL, content=body, headers={"content-type": "application/json"})
    assert word in fault(answer, 400)["message"]


async def test_a_large_body_is_refused_whether_or_not_it_says_its_length():
    async def pieces():
        for _ in range(10):
            yield b"x" * 1000

    async with serving(ScriptedClient(), SMALL) as http:
        fault(await http.post(URL, content=b"x" * 5000, headers={"content-type": "application/json"}), 413)
        fault(await http.post(URL, content=pieces(), headers={"content-type": "application/json"}), 413)


async def test_a_body_of_another_type_is_refused():
    async with serving(ScriptedClient()) as http:
        answer = await http.post(URL, content=b"a=b", headers={"content-type": "application/x-www-form-urlencoded"})
    assert "application/json" in fault(answer, 400)["message"]


@pytest.mark.parametrize("path", ["/nothing", "/v1/nothing", "/v1/chat/completions/nothing"])
async def test_an_unknown_route_is_404(path):
    async with serving(ScriptedClient()) as http:
        assert fault(await http.post(path, json={}), 404)["type"] == "NotFoundError"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/completions/", "/v1/completions"),
        ("/v1//chat/completions", "/v1/chat/completions"),
        ("/v1/tokenize", "/tokenize"),
        ("/models", "/v1/models"),
        ("/v1/embeddings", "/docs"),
        ("/v1/v1", "/docs"),
    ],
)
async def test_who_has_a_wrong_base_url_is_told_the_right_one(path, meant):
    async with serving(ScriptedClient()) as http:
        assert f" {meant}" in fault(await http.post(path, json={}), 404)["message"]


async def test_a_wrong_method_is_405_and_names_the_right_one():
    async with serving(ScriptedClient()) as http:
        answer = await http.get(URL)
    fault(answer, 405)
    assert answer.headers["allow"] == "POST"


async def test_an_unknown_model_is_404():
    async with serving(ScriptedClient()) as http:
        error = fault(await http.post(URL, json=chat(model="gpt-9")), 404)
        assert error["param"] == "model" and "toy" in error["message"]
        assert fault(await http.get("/v1/models/gpt-9"), 404)["param"] == "model"


async def test_with_several_models_one_must_be_named():
    models = {name: toy_model(name) for name in ("a", "b")}
    async with serving(ScriptedClient(says("x")), models=models) as http:
        assert fault(await http.post(URL, json=chat()), 400)["param"] == "model"
        assert (await http.post(URL, json=chat(model="b"))).json()["model"] == "b"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (RequestError("no", param="n"), 400, None),
        (ContextTooLong("no", param="messages"), 400, None),
        (Overloaded("wait", retry_after_s=2.2), 429, "3"),
        (Unavailable("nobody", retry_after_s=0.1), 503, "1"),
        (EngineFailed("broke"), 500, None),
        (RuntimeError("/secret/path"), 500, None),
    ],
)
async def test_what_the_engine_refuses_is_told_before_the_first_byte(error, status, retry_after, stream):
    async with serving(ScriptedClient([error])) as http:
        answer = await http.post(URL, json=chat(stream=stream))
    assert "/secret/path" not in fault(answer, status)["message"]
    assert answer.headers.get("retry-after") == retry_after


async def test_a_failure_within_a_stream_is_an_event_and_the_end():
    async with serving(ScriptedClient([*says("ab", finish=None, eos=False), EngineFailed("broke")])) as http:
        seen = events((await http.post(URL, json=chat(stream=True))).text)
    assert seen[-2]["error"]["message"].startswith("the engine failed") and seen[-2]["error"]["code"] == 500
    assert seen[-1] == "[DONE]"
    assert not any(event["choices"][0]["finish_reason"] for event in seen[:-2])


@pytest.mark.parametrize("script", [says("ab", finish="error"), says("ab", finish=None)])
async def test_an_answer_that_breaks_off_is_500(script):
    async with serving(ScriptedClient(script)) as http:
        fault(await http.post(URL, json=chat()), 500)


@pytest.mark.parametrize("length", [60, 6000])  # the longer is refused unread
@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_does_not_fit_is_told_in_the_words_that_clients_look_for(length, stream):
    """LiteLLM, and the agents built on it, know a full context by these words, and then shorten the chat."""
    told = "This model's maximum context length is 40 tokens"
    async with serving(ScriptedClient(says("x"), max_model_len=40)) as http:
        error = fault(await http.post(URL, json=chat("y" * length, stream=stream)), 400)
        assert error["message"].startswith(told) and error["param"] == "messages"
        asked = {"prompt": "y" * length, "stream": stream}
        error = fault(await http.post("/v1/completions", json=asked), 400)
        assert error["message"].startswith(told) and error["param"] == "prompt"


async def test_a_key_is_asked_for_where_the_config_has_some():
    api = ApiConfig(api_keys=("s3cret", "other"))
    async with serving(ScriptedClient(says("x")), api) as http:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "s3cret"},
            {"authorization": "Basic s3cret"},
        ):
            answer = await http.post(URL, json=chat(), headers=headers)
            fault(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
        fault(await http.get("/v1/models"), 401)
        assert (await http.get("/health")).status_code == 200
        answer = await http.post(URL, json=chat(), headers={"authorization": "Bearer other"})
        assert answer.status_code == 200
