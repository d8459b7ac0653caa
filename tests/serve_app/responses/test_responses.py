"""POST /v1/responses, from raw bytes."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import ApiConfig
from engine.errors import EngineFailed, Overloaded, Unavailable
from tests.serve_app.chat.test_tools import ARGUMENTS, CALL, HERMES, THINKING
from tests.serve_app.responses.event_order import checked_response, typed_events
from tests.serve_app.scripted import ScriptedClient, says, serving
from tests.serve_app.toy import CHATML, toy_model

URL = "/v1/responses"
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}
SHOWN = THINKING.replace("{{ message['content'] }}", "[{{ message.reasoning }}]{{ message['content'] }}")


def prompt_of(client, index=-1):
    return toy_model().tokenizer.decode(list(client.requests[index].prompt), skip_special_tokens=False)


async def post(script, template=CHATML, max_model_len=4096, **fields):
    client = ScriptedClient(says(script) if isinstance(script, str) else script, max_model_len=max_model_len)
    model = toy_model(template=template, max_model_len=max_model_len)
    async with serving(client, models={"toy": model}) as http:
        return client, await http.post(URL, json={"input": "hi", **fields})


async def response_of(script, **fields):
    client, answer = await post(script, **fields)
    assert answer.status_code == 200, answer.text
    return client, answer.json()


async def streamed(script, **fields):
    _, answer = await post(script, stream=True, **fields)
    assert answer.status_code == 200, answer.text
    return typed_events(answer.text)


async def test_a_whole_answer_has_every_field():
    _, body = await response_of(says("Hi there", cached=16), metadata={"a": "b"}, user="me")
    id_, message_id, created = body.pop("id"), body["output"][0].pop("id"), body.pop("created_at")
    assert id_.startswith("resp_") and message_id.startswith("msg_") and body.pop("completed_at") >= created
    input_tokens = body["usage"]["input_tokens"]
    assert body == {
        "object": "response",
        "model": "toy",
        "status": "completed",
        "output": [
            {
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Hi there", "annotations": [], "logprobs": []}],
            }
        ],
        "usage": {
            "input_tokens": input_tokens,
            "input_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 0},
            "output_tokens": 9,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": input_tokens + 9,
        },
        "error": None,
        "incomplete_details": None,
        "background": False,
        "conversation": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {"a": "b"},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "auto",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "user": "me",
    }


async def test_a_stream_has_its_events_in_order():
    events = await streamed(f"<think>hm</think>Look. {CALL}", template=HERMES + "{# </think> #}", tools=[WEATHER])
    final = checked_response(events)
    assert [item["type"] for item in final["output"]] == ["reasoning", "message", "function_call"]
    assert final["output"][2]["arguments"] == ARGUMENTS and final["output"][2]["call_id"]
    assert (events[0]["response"]["status"], final["status"]) == ("in_progress", "completed")
    assert events[0]["response"]["usage"] is None and final["usage"]["output_tokens_details"]["reasoning_tokens"] > 0


async def test_an_answer_that_is_cut_is_incomplete():
    script = says("ab", finish="length")
    _, body = await response_of(script, max_output_tokens=2)
    events = await streamed(script, max_output_tokens=2)
    for response in (body, checked_response(events)):
        assert response["status"] == "incomplete" and response["completed_at"] is None
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert response["output"][0]["status"] == "incomplete"
    assert events[-1]["type"] == "response.incomplete"


async def test_an_empty_answer_is_an_empty_message():
    _, body = await response_of("")
    final = checked_response(await streamed(""))
    assert body["output"][0]["content"][0]["text"] == final["output"][0]["content"][0]["text"] == ""


async def test_the_prompt_is_the_one_of_the_same_chat():
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "c"}]},
        {"role": "user", "content": "d"},
    ]
    client, _ = await response_of("x", instructions="s", input=items)
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "a\nb"}]
    messages += [{"role": "assistant", "content": "c"}, {"role": "user", "content": "d"}]
    async with serving(ScriptedClient(says("x"))) as http:
        answer = await http.post("/tokenize", json={"messages": messages})
    assert list(client.requests[0].prompt) == answer.json()["tokens"]


async def test_what_the_system_says_at_the_beginning_is_one_message():
    items = [
        {"role": "developer", "content": "b"},
        {"role": "system", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    client, _ = await response_of("x", instructions="a", input=items)
    assert prompt_of(client).startswith("<|im_start|>system\na\nb\nc<|im_end|>\n<|im_start|>user\nd")


async def test_items_of_an_answer_go_back():
    template = (
        SHOWN.replace(
            "<|im_end|>",
            "{% for call in message.tool_calls %}({{ call.function.arguments.city }}){% endfor %}<|im_end|>",
            1,
        )
        + '{# <tool_call>{"name" {% if tools %}{% endif %} #}'
    )
    script = f"<think>hm</think>Look. {CALL}"
    _, body = await response_of(script, template=template, tools=[WEATHER])
    call = body["output"][-1]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    client, _ = await response_of("x", template=template, tools=[WEATHER], input=[*body["output"], result])
    prompt = prompt_of(client)
    assert "[hm]Look. " in prompt and "Paris, 巴黎" in prompt and "rain" in prompt


@pytest.mark.parametrize("stream", [False, True])
async def test_sealed_reasoning_comes_back(stream):
    client = ScriptedClient(says("<think>Let me see.</think>4"))
    async with serving(client, ApiConfig(), {"toy": toy_model(template=SHOWN, max_model_len=4096)}) as http:
        fields = {"input": "2+2", "include": ["reasoning.encrypted_content"], "store": False, "stream": stream}
        answer = await http.post(URL, json=fields)
        body = checked_response(typed_events(answer.text)) if stream else answer.json()
        thought, message = body["output"]
        assert thought["encrypted_content"] and "see" not in thought["encrypted_content"]
        sealed = {key: value for key, value in thought.items() if key != "content"}
        items = [{"role": "user", "content": "2+2"}, sealed, message, {"role": "user", "content": "sure?"}]
        await http.post(URL, json={"input": items})
    assert "[Let me see.]4" in prompt_of(client)


async def test_reasoning_is_its_own_summary_where_one_is_asked_for():
    fields = {"template": SHOWN, "reasoning": {"summary": "auto"}}
    _, body = await response_of("<think>Let me see.</think>4", **fields)
    final = checked_response(await streamed("<think>Let me see.</think>4", **fields))
    for response in (body, final):
        thought = response["output"][0]
        assert thought["summary"] == [{"type": "summary_text", "text": "Let me see."}] and thought["content"] == []
        assert response["reasoning"]["summary"] == "auto"
    items = [{"role": "user", "content": "2+2"}, *body["output"], {"role": "user", "content": "sure?"}]
    client, _ = await response_of("x", template=SHOWN, input=items)
    assert "[Let me see.]4" in prompt_of(client)


async def test_reasoning_that_is_sealed_elsewhere_is_left_out():
    sealed = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAABoISQ24OyVRYbk"}
    client, _ = await response_of(
        "x", input=[{"role": "user", "content": "a"}, sealed, {"role": "user", "content": "b"}]
    )
    assert "gAAAA" not in prompt_of(client)


async def test_effort_reaches_the_template():
    client, _ = await response_of("x", template=THINKING, reasoning={"effort": "none"})
    assert prompt_of(client).endswith("<think></think>")


@pytest.mark.parametrize(
    ("choice", "forced"),
    [
        ("auto", False),
        ("required", True),
        ({"type": "function", "name": "get_weather"}, True),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]}, True),
    ],
)
async def test_tool_choice_constrains_the_answer(choice, forced):
    client, body = await response_of(CALL, tools=[WEATHER], template=HERMES, tool_choice=choice)
    assert ("start: calls" in client.requests[0].grammar.text) == forced
    assert body["tool_choice"] == choice and body["output"][0]["name"] == "get_weather"
    assert body["tools"] == [WEATHER]


async def test_no_more_calls_than_asked_for():
    for limit, number in ((1, 1), (2, 2), (None, 3)):
        _, body = await response_of(CALL * 3, tools=[WEATHER], template=HERMES, max_tool_calls=limit)
        assert len(body["output"]) == number


async def test_a_custom_tool_gets_a_text():
    tool = {"type": "custom", "name": "apply_patch", "description": "Patches"}
    call = '<tool_call>\n{"name": "apply_patch", "arguments": {"input": "*** Begin\\n\\"é\\""}}\n</tool_call>'
    _, body = await response_of(call, tools=[tool], template=HERMES)
    final = checked_response(await streamed(call, tools=[tool], template=HERMES))
    for response in (body, final):
        (item,) = response["output"]
        assert (item["type"], item["input"]) == ("custom_tool_call", '*** Begin\n"é"')
    result = {"type": "custom_tool_call_output", "call_id": body["output"][0]["call_id"], "output": "done"}
    client, _ = await response_of("x", tools=[tool], template=HERMES, input=[*body["output"], result])
    assert "done" in prompt_of(client)


async def test_a_tool_of_a_namespace_is_called_by_both_names():
    tools = [{"type": "namespace", "name": "home", "description": "Home", "tools": [WEATHER]}]
    call = CALL.replace("get_weather", "home__get_weather")
    client, body = await response_of(call, tools=tools, template=HERMES)
    final = checked_response(await streamed(call, tools=tools, template=HERMES))
    for response in (body, final):
        (item,) = response["output"]
        assert (item["namespace"], item["name"]) == ("home", "get_weather")
    result = {"type": "function_call_output", "call_id": body["output"][0]["call_id"], "output": "rain"}
    client, _ = await response_of("x", tools=tools, input=[*body["output"], result])
    assert "home__get_weather" in prompt_of(client)


async def test_a_format_constrains_the_answer():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "name": "x", "schema": schema, "strict": True}
    client, body = await response_of('{"a": 1}', text={"format": wanted})
    assert client.requests[0].grammar is not None and body["text"]["format"] == wanted
    client, _ = await response_of("{}", text={"format": {"type": "json_object"}})
    assert client.requests[0].grammar is not None


async def test_truncation_leaves_out_the_oldest_turns():
    items = [{"role": "user" if n % 2 == 0 else "assistant", "content": f"{n:02}" + "x" * 48} for n in range(9)]
    fields = {"instructions": "kind", "input": items, "max_model_len": 300}
    client, body = await response_of("y", truncation="auto", **fields)
    prompt = prompt_of(client)
    assert "kind" in prompt and "06x" in prompt and "08x" in prompt and "00x" not in prompt and "01x" not in prompt
    assert body["truncation"] == "auto"
    _, answer = await post("y", **fields)
    assert fault(answer, 400)["param"] == "input"
    _, answer = await post("y", truncation="auto", input="y" * 400, max_model_len=300)
    assert fault(answer, 400)["message"].startswith("This model's maximum context length is 300 tokens")


async def test_logprobs_are_those_of_the_text():
    script = says("<think>hm</think>é日", logprobs=True, sizes=[2])
    fields = {"template": THINKING, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    _, body = await response_of(script, **fields)
    final = checked_response(await streamed(script, **fields))
    told = body["output"][1]["content"][0]["logprobs"]
    assert told == final["output"][1]["content"][0]["logprobs"]
    assert b"".join(bytes(one["bytes"]) for one in told).endswith("é日".encode())
    assert all(len(one["top_logprobs"]) == 2 for one in told)


def fault(answer, status):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user"}]}, "input.0.content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0.type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input.0.content.0.text"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input.0.type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.id"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input.0.call_id"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input.0.call_id"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tools": [WEATHER, WEATHER]}, "tools.1.name"),
        ({"tools": [{**WEATHER, "parameters": {"type": "colour"}}]}, "tools.0.parameters"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "schema": {"type": "colour"}}}}, "text.format.schema"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 10**6}, "max_output_tokens"),
        ({"max_tool_calls": 0}, "max_tool_calls"),
        ({"top_logprobs": 99}, "top_logprobs"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"metadata": {"k": "x" * 513}}, "metadata"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"truncation": "some"}, "truncation"),
        ({"background": True, "store": False}, "background"),
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "conversation"),
    ],
)
async def test_a_wrong_field_is_named(fields, param, stream):
    _, answer = await post("x", template=HERMES, stream=stream, **fields)
    error = fault(answer, 400)
    assert error["param"] == param and param.split(".")[0] in error["message"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(Overloaded("wait"), 429), (Unavailable("nobody"), 503), (EngineFailed("broke"), 500), (RuntimeError("/x"), 500)],
)
async def test_what_the_engine_refuses_is_told_before_the_first_byte(error, status):
    _, answer = await post([error], stream=True)
    fault(answer, status)


@pytest.mark.parametrize("last", [says("b", finish="abort"), [EngineFailed("broke")]])
async def test_a_failure_within_a_stream_is_a_failed_response(last):
    events = await streamed([*says("a", finish=None), *last])
    response = events[-1]["response"]
    assert events[-1]["type"] == "response.failed" and response["status"] == "failed"
    assert response["error"]["code"] == "server_error" and response["output"][0]["status"] == "incomplete"


@settings(max_examples=25, deadline=None)
@given(
    pieces=st.lists(st.sampled_from(["Hi ", "é日\u2028", "\n", CALL, "<tool_call>no", "{", "👩"]), max_size=5).map(
        "".join
    ),
    thought=st.sampled_from(["", "<think>hm\nso</think>", "<think>cut"]),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    finish=st.sampled_from(["stop", "length"]),
)
async def test_the_stream_joined_is_the_whole_answer(pieces, thought, sizes, finish):
    template = HERMES + "{# </think> #}"
    script = says(thought + pieces, sizes=sizes, finish=finish)
    _, whole = await response_of(script, tools=[WEATHER], template=template)
    told = checked_response(await streamed(script, tools=[WEATHER], template=template))
    assert plain(told) == plain(whole)


def plain(response):
    """Without what differs between two answers."""
    kept = {**response, "id": "", "created_at": 0, "completed_at": 0}
    kept["output"] = [item | {"id": "", "call_id": ""} for item in response["output"]]
    return json.dumps(kept, sort_keys=True)
