"""POST /v1/messages, from raw bytes."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import ApiConfig
from engine.errors import EngineFailed, Overloaded, Unavailable
from tests.serve_app.chat.test_tools import CALL, HERMES, THINKING
from tests.serve_app.messages.event_order import checked_message, typed_events
from tests.serve_app.scripted import ScriptedClient, chat, says, serving
from tests.serve_app.toy import CHATML, toy_model

URL = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
WEATHER = {
    "name": "get_weather",
    "description": "Get the weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def asked(text="hi", **fields):
    return {"model": "toy", "max_tokens": 64, "messages": [{"role": "user", "content": text}], **fields}


def prompt_of(client, index=-1):
    return toy_model().tokenizer.decode(list(client.requests[index].prompt), skip_special_tokens=False)


async def post(script, template=CHATML, max_model_len=4096, url=URL, **fields):
    client = ScriptedClient(says(script) if isinstance(script, str) else script, max_model_len=max_model_len)
    model = toy_model(template=template, max_model_len=max_model_len)
    async with serving(client, models={"toy": model}) as http:
        return client, await http.post(url, json=asked(**fields))


async def message_of(script, **fields):
    client, answer = await post(script, **fields)
    assert answer.status_code == 200, answer.text
    return client, answer.json()


async def test_a_whole_answer_has_every_field():
    _, answer = await post(says("Hi there", cached=16))
    body = answer.json()
    assert body.pop("id") == f"msg_{answer.headers['request-id']}"
    usage = body.pop("usage")
    assert usage["input_tokens"] > 0 and usage["cache_read_input_tokens"] == 16
    assert (usage["cache_creation_input_tokens"], usage["output_tokens"]) == (0, 9)
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "toy",
        "content": [{"type": "text", "text": "Hi there"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }


async def test_a_stream_has_its_events_in_order():
    _, answer = await post("Hi", stream=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = typed_events(answer.text)
    assert [event["type"] for event in events] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["usage"]["output_tokens"] == 0
    assert checked_message(events)["content"] == [{"type": "text", "text": "Hi"}]


@pytest.mark.parametrize(
    ("script", "fields", "reason", "sequence"),
    [
        (says("ab"), {}, "end_turn", None),
        (says("ab", finish="length"), {"max_tokens": 2}, "max_tokens", None),
        (says("abXc"), {"stop_sequences": ["X"]}, "stop_sequence", "X"),
        (says("ab", finish="length"), {"max_tokens": 100_000}, "model_context_window_exceeded", None),
        (says(CALL), {"tools": [WEATHER], "template": HERMES}, "tool_use", None),
        (
            says('{"city": "a"}'),
            {"tools": [WEATHER], "template": HERMES, "tool_choice": {"type": "tool", "name": "get_weather"}},
            None,
            None,
        ),
    ],
)
async def test_stop_reasons(script, fields, reason, sequence):
    _, body = await message_of(script, **fields)
    if reason is not None:
        assert (body["stop_reason"], body["stop_sequence"]) == (reason, sequence)
    _, streamed = await post(script, stream=True, **fields)
    told = checked_message(typed_events(streamed.text))
    assert (told["stop_reason"], told["stop_sequence"]) == (body["stop_reason"], body["stop_sequence"])


async def test_max_tokens_zero_computes_the_prompt_and_sends_nothing():
    _, body = await message_of(says("x", finish="length", cached=3), max_tokens=0)
    assert body["content"] == [] and body["stop_reason"] == "max_tokens"
    assert (body["usage"]["output_tokens"], body["usage"]["cache_read_input_tokens"]) == (0, 3)


async def test_more_tokens_than_the_context_has_are_those_that_it_has():
    client, _ = await message_of("x", max_tokens=32_000, max_model_len=512)
    assert client.requests[0].sampling.max_tokens == 512 - len(client.requests[0].prompt)


async def test_the_prompt_is_the_one_of_the_same_chat():
    blocks = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "b"}]
    client, _ = await message_of("x", system=blocks, messages=[{"role": "user", "content": blocks}])
    async with serving(ScriptedClient(says("x"))) as http:
        messages = [{"role": "system", "content": "a\nb"}, {"role": "user", "content": "a\nb"}]
        answer = await http.post("/tokenize", json={"messages": messages})
    assert list(client.requests[0].prompt) == answer.json()["tokens"]


BILLING = "x-anthropic-billing-header: cc_version=2.1.9.c1; cc_entrypoint=cli; cch={};"


@pytest.mark.parametrize(
    "system_of",
    [
        lambda line: [{"type": "text", "text": line}, {"type": "text", "text": "You are kind."}],
        lambda line: f"{line}\nYou are kind.",
    ],
)
async def test_billing_lines_do_not_change_the_prompt(system_of):
    prompts = []
    for hash_ in ("1a2b3", "ffffe"):
        client, _ = await message_of("x", system=system_of(BILLING.format(hash_)))
        prompts.append(client.requests[0].prompt)
    client, _ = await message_of("x", system="You are kind.")
    assert prompts == [client.requests[0].prompt] * 2


async def test_neighbors_of_one_role_are_one_turn():
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]}]
    client, _ = await message_of("x", messages=messages)
    assert "<|im_start|>user\na\nb<|im_end|>" in prompt_of(client)


async def test_a_last_message_of_the_assistant_is_continued():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "It is ("}]
    client, body = await message_of("B)", messages=messages)
    assert prompt_of(client).endswith("<|im_start|>assistant\nIt is (")
    assert body["content"] == [{"type": "text", "text": "B)"}]


async def test_a_call_and_its_result_go_back():
    _, body = await message_of(CALL, tools=[WEATHER], template=HERMES)
    (call,) = body["content"]
    assert call["type"] == "tool_use" and call["input"] == {"city": "Paris, 巴黎"} and call["name"] == "get_weather"
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": [{"type": "text", "text": "rain"}]}
    messages = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": body["content"]},
        {"role": "user", "content": [result, {"type": "text", "text": "so?"}]},
    ]
    client, _ = await message_of("wet", tools=[WEATHER], template=HERMES, messages=messages)
    prompt = prompt_of(client)
    assert "<tool_call>Paris, 巴黎</tool_call>" in prompt
    assert "<|im_start|>tool\nrain<|im_end|>\n<|im_start|>user\nso?<|im_end|>" in prompt


async def test_an_error_of_a_tool_is_told():
    messages = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "get_weather", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "lost", "is_error": True}]},
    ]
    client, _ = await message_of("x", messages=messages)
    assert "\nError: lost\n" in prompt_of(client)


async def test_text_and_calls_keep_their_order_in_any_pieces():
    text = f"First. {CALL} between {CALL} last"
    blocks = []
    for sizes, interval in (([1], 1), ([500], 1), ([7, 40], 1), ([1], 9), ([3], 200)):
        script = says(text, sizes=sizes)
        _, body = await message_of(script, tools=[WEATHER], template=HERMES)
        fields = {"stream": True, "stream_interval": interval}
        _, streamed = await post(script, tools=[WEATHER], template=HERMES, **fields)
        told = checked_message(typed_events(streamed.text))["content"]
        for seen in (body["content"], told):
            blocks.append([{**block, "id": None} if block["type"] == "tool_use" else block for block in seen])
    assert all(one == blocks[0] for one in blocks)
    assert [block["type"] for block in blocks[0]] == ["text", "tool_use", "text", "tool_use", "text"]


@pytest.mark.parametrize(
    ("choice", "forced"),
    [({"type": "auto"}, False), ({"type": "any"}, True), ({"type": "tool", "name": "get_weather"}, True)],
)
async def test_tool_choice_constrains_the_answer(choice, forced):
    client, _ = await message_of(CALL, tools=[WEATHER], template=HERMES, tool_choice=choice)
    grammar = client.requests[0].grammar.text
    assert ("start: calls" in grammar) == forced


async def test_no_tools_may_be_called():
    client, body = await message_of(CALL, tools=[WEATHER], template=HERMES, tool_choice={"type": "none"})
    assert client.requests[0].grammar is None and body["content"][0]["type"] == "text"


async def test_parallel_calls_can_be_switched_off():
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    _, body = await message_of(CALL + CALL, tools=[WEATHER], template=HERMES, tool_choice=choice)
    assert [block["type"] for block in body["content"]] == ["tool_use"]


async def test_a_format_constrains_the_answer():
    wanted = {"format": {"type": "json_schema", "schema": {"type": "object", "properties": {}}}}
    client, _ = await message_of("{}", output_config=wanted)
    assert client.requests[0].grammar is not None


async def test_thinking_is_a_block_that_comes_back():
    script = "<think>Let me see.</think>It is 4."
    _, body = await message_of(script, template=THINKING)
    thought, text = body["content"]
    assert (thought["type"], thought["thinking"], text["text"]) == ("thinking", "Let me see.", "It is 4.")
    assert thought["signature"] and body["usage"]["output_tokens_details"]["thinking_tokens"] > 0
    shown = THINKING.replace("{{ message['content'] }}", "[{{ message.reasoning }}]{{ message['content'] }}")
    messages = [
        {"role": "user", "content": "2+2"},
        {"role": "assistant", "content": body["content"]},
        {"role": "user", "content": "sure?"},
    ]
    client, _ = await message_of("yes", template=shown, messages=messages)
    assert "[Let me see.]It is 4." in prompt_of(client)


@pytest.mark.parametrize("stream", [False, True])
async def test_omitted_thinking_is_sealed_and_comes_back(stream):
    shown = THINKING.replace("{{ message['content'] }}", "[{{ message.reasoning }}]{{ message['content'] }}")
    client = ScriptedClient(says("<think>Let me see.</think>4"))
    model = toy_model(template=shown, max_model_len=4096)
    async with serving(client, ApiConfig(), {"toy": model}) as http:
        thinking = {"type": "adaptive", "display": "omitted"}
        answer = await http.post(URL, json=asked(thinking=thinking, stream=stream))
        body = checked_message(typed_events(answer.text)) if stream else answer.json()
        assert body["content"][0]["thinking"] == "" and "see" not in answer.text
        messages = [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": body["content"]}]
        await http.post(URL, json=asked(messages=[*messages, {"role": "user", "content": "sure?"}]))
    assert "[Let me see.]4" in prompt_of(client)


async def test_a_thought_of_another_server_is_taken_as_it_is():
    thoughts = [
        {"type": "thinking", "thinking": "hm", "signature": "EqQBCgIYAhIM"},
        {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix"},
        {"type": "text", "text": "4"},
    ]
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": thoughts}]
    shown = CHATML.replace("{{ message['content'] }}", "[{{ message.reasoning }}]{{ message['content'] }}")
    client, _ = await message_of("x", template=shown, messages=[*messages, {"role": "user", "content": "b"}])
    assert "[hm]4" in prompt_of(client)


async def test_thinking_is_switched_off_and_limited():
    client, body = await message_of("4", template=THINKING, thinking={"type": "disabled"})
    assert prompt_of(client).endswith("<think></think>") and len(body["content"]) == 1
    client, _ = await message_of("4", template=THINKING, thinking={"type": "enabled", "budget_tokens": 9})
    assert client.requests[0].sampling.thinking.budget == 9


async def test_tokens_are_counted_as_they_are_used():
    fields = {"system": "s", "tools": [WEATHER], "template": HERMES, "messages": [{"role": "user", "content": "x"}]}
    _, body = await message_of("x", **fields)
    _, counted = await post("x", url=COUNT, **fields)
    assert counted.json() == {"input_tokens": body["usage"]["input_tokens"]}


def fault(answer, status, kind):
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["type"] == "error" and body["error"]["type"] == kind and body["request_id"]
    assert body["request_id"] == answer.headers["request-id"]
    return body["error"]["message"]


USE = {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]}
HI = {"role": "user", "content": "hi"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"max_tokens": None}, "max_tokens: "),
        ({"max_tokens": -1}, "max_tokens: "),
        ({"messages": []}, "messages: "),
        ({"messages": None}, "messages: "),
        ({"messages": [{"role": "user", "content": ""}]}, "messages.0: user messages must have non-empty content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: "),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0.type: "),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text: missing"),
        ({"messages": [HI, USE]}, "messages.1.content.0: tool_use ids were found without tool_result"),
        ({"messages": [HI, USE, HI]}, "messages.1.content.0: tool_use ids were found without tool_result"),
        ({"messages": [HI, RESULT]}, "messages.1.content.0: unexpected tool_use_id"),
        ({"messages": [HI, {"role": "assistant", "content": [{"type": "tool_use"}]}, RESULT]}, "messages."),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type: this server does not run"),
        ({"tools": [WEATHER, WEATHER]}, "tools.1.name: "),
        (
            {"tools": [{"name": "f", "input_schema": {"type": "object", "properties": {"a": {"type": "colour"}}}}]},
            "tools.0.input_schema",
        ),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice: there is no tool 'g'"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name: missing"),
        ({"tool_choice": {"type": "any"}}, "tool_choice: "),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens: missing"),
        ({"thinking": {"type": "enabled", "budget_tokens": 64}}, "thinking.budget_tokens: must be less than"),
        ({"stop_sequences": [""]}, "stop_sequences.0: "),
        ({"stop_sequences": ["x"] * 99}, "stop_sequences: "),
        ({"temperature": 7}, "temperature: "),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "colour"}}}}, "output_config.format"),
    ],
)
async def test_a_wrong_field_is_named(fields, word, stream):
    _, answer = await post("x", template=HERMES, stream=stream, **fields)
    assert word in fault(answer, 400, "invalid_request_error")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (Overloaded("wait", retry_after_s=2.2), 429, "rate_limit_error"),
        (Unavailable("nobody"), 529, "overloaded_error"),
        (EngineFailed("broke"), 500, "api_error"),
        (RuntimeError("/secret/path"), 500, "api_error"),
    ],
)
async def test_what_the_engine_refuses_is_told_in_anthropics_shape(error, status, kind):
    _, answer = await post([error], stream=True)
    assert "/secret" not in fault(answer, status, kind)


async def test_a_prompt_that_does_not_fit_is_told_in_the_words_that_clients_look_for():
    _, answer = await post("x", max_model_len=40, messages=[{"role": "user", "content": "y" * 100}])
    assert fault(answer, 400, "invalid_request_error").startswith("prompt is too long: ")


@pytest.mark.parametrize("last", [says("b", finish="abort"), [EngineFailed("broke")]])
async def test_a_failure_within_a_stream_is_an_event(last):
    _, answer = await post([*says("a", finish=None), *last], stream=True)
    events = typed_events(answer.text)
    assert events[-1]["error"]["type"] == "api_error" and events[-1]["type"] == "error"
    assert not {"message_delta", "message_stop"} & {event["type"] for event in events}


async def test_a_key_is_taken_from_either_header():
    async with serving(ScriptedClient(says("x")), ApiConfig(api_keys=("s3cret",))) as http:
        fault(await http.post(URL, json=asked()), 401, "authentication_error")
        fault(await http.post(URL, json=asked(), headers={"x-api-key": "no"}), 401, "authentication_error")
        for headers in ({"x-api-key": "s3cret"}, {"authorization": "Bearer s3cret"}):
            assert (await http.post(URL, json=asked(), headers=headers)).status_code == 200
        both = {"x-api-key": "s3cret", "authorization": "Bearer other"}
        assert (await http.post(URL, json=asked(), headers=both)).status_code == 200


async def test_other_faults_have_the_shape_too():
    async with serving(ScriptedClient(says("x"))) as http:
        fault(await http.post(URL, json=asked(model="claude-9")), 404, "not_found_error")
        fault(await http.get(URL), 405, "invalid_request_error")
        fault(await http.post(URL, content=b"{"), 400, "invalid_request_error")
        headers = {"anthropic-version": "2023-06-01"}
        fault(await http.get("/v1/models/claude-9", headers=headers), 404, "not_found_error")
        assert "error" in (await http.post("/v1/chat/completions", json=chat(model="claude-9"))).json()


async def test_a_silent_stream_has_pings():
    script = [*says("a", finish=None), 0.25, *says("b")]
    async with serving(ScriptedClient(script), ApiConfig(keep_alive_s=0.1)) as http:
        answer = await http.post(URL, json=asked(stream=True))
    events = typed_events(answer.text)
    assert sum(event["type"] == "ping" for event in events) >= 3
    assert checked_message(events)["content"] == [{"type": "text", "text": "ab"}]


@settings(max_examples=25, deadline=None)
@given(
    pieces=st.lists(st.sampled_from(["Hi ", "é日", "\n", CALL, "<tool_call>no", "{", "👩"]), max_size=5).map("".join),
    thought=st.sampled_from(["", "<think>hm\nso</think>", "<think>cut"]),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    finish=st.sampled_from(["stop", "length"]),
)
async def test_the_stream_joined_is_the_whole_answer(pieces, thought, sizes, finish):
    template = HERMES + "{# </think> #}"
    script = says(thought + pieces, sizes=sizes, finish=finish)
    _, whole = await message_of(script, tools=[WEATHER], template=template)
    _, streamed = await post(script, tools=[WEATHER], template=template, stream=True)
    told = checked_message(typed_events(streamed.text))
    for body in (whole, told):
        body["id"] = None
        for block in body["content"]:
            for field in {"id", "signature"} & block.keys():
                block[field] = None
    assert msgspec.to_builtins(told) == whole
