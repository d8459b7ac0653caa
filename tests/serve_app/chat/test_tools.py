"""Tools and thinking, from the client's side."""

import json

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serve_app.scripted import ScriptedClient, chat, events, says, serving
from tests.serve_app.test_openai_sdk import sdk
from tests.serve_app.toy import CHATML, toy_model

URL = "/v1/chat/completions"
HERMES = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    'Write <tool_call>{"name": ..., "arguments": ...}</tool_call>\n<|im_end|>\n{% endif %}'
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls %}<tool_call>{{ call.function.arguments.city }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = (
    CHATML + "{# </think> #}{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris, 巴黎"}}\n</tool_call>'
ARGUMENTS = '{"city": "Paris, 巴黎"}'


def prompt_of(client):
    return toy_model().tokenizer.decode(list(client.requests[0].prompt), skip_special_tokens=False)


async def post(text, template=HERMES, max_model_len=4096, **fields):
    client = ScriptedClient(says(text) if isinstance(text, str) else text, max_model_len=max_model_len)
    model = toy_model(template=template, max_model_len=max_model_len)
    async with serving(client, models={"toy": model}) as http:
        return client, await http.post(URL, json=chat(**fields))


async def choice_of(text, **fields):
    _, answer = await post(text, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


async def refused(**fields):
    _, answer = await post("x", **fields)
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]["param"]


async def test_a_call_is_told_as_a_call():
    choice = await choice_of("Let me see.\n" + CALL, tools=[WEATHER])
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls"
    assert message["content"] == "Let me see.\n"
    (call,) = message["tool_calls"]
    assert call["type"] == "function" and call["id"]
    assert call["function"] == {"name": "get_weather", "arguments": ARGUMENTS}


async def test_an_answer_of_calls_alone_has_no_content():
    message = (await choice_of(CALL, tools=[WEATHER]))["message"]
    assert message["content"] is None and len(message["tool_calls"]) == 1


async def test_an_answer_without_calls_has_no_list_of_them():
    choice = await choice_of("just text", tools=[WEATHER])
    assert choice["message"] == {"role": "assistant", "content": "just text"}
    assert choice["finish_reason"] == "stop"


async def test_a_call_that_is_cut_ends_by_length():
    script = says(CALL[:60], finish="length")
    choice = await choice_of(script, tools=[WEATHER])
    assert choice["finish_reason"] == "length"
    assert ARGUMENTS.startswith(choice["message"]["tool_calls"][0]["function"]["arguments"])


async def test_none_leaves_the_answer_as_it_is_and_the_tools_in_the_prompt():
    client, answer = await post(CALL, tools=[WEATHER], tool_choice="none")
    assert answer.json()["choices"][0]["message"]["content"] == CALL
    assert '"name": "get_weather"' in prompt_of(client)


async def test_only_the_first_call_is_kept_where_calls_are_not_parallel():
    choice = await choice_of(CALL + CALL, tools=[WEATHER], parallel_tool_calls=False)
    assert len(choice["message"]["tool_calls"]) == 1


async def test_only_allowed_tools_are_called():
    other = {"type": "function", "function": {"name": "other"}}
    allowed = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "other"}}]},
    }
    choice = await choice_of(CALL, tools=[WEATHER, other], tool_choice=allowed)
    assert choice["message"]["content"] == CALL


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    text=st.sampled_from([CALL, "a " + CALL + "\n" + CALL, "<think>x</think>" + CALL, "<tool_call>{no", "<think>y"]),
)
async def test_the_stream_joined_is_the_whole_answer(sizes, text):
    fields = {"tools": [WEATHER], "template": HERMES + "{# </think> #}"}
    whole = await choice_of(says(text, sizes=sizes), **fields)
    _, answer = await post(says(text, sizes=sizes), stream=True, **fields)
    message: dict = {"role": "assistant", "content": ""}
    for event in events(answer.text)[1:-1]:
        delta = event["choices"][0]["delta"]
        assert len(delta) <= 2 and len(delta.get("tool_calls", [])) <= 1
        message["content"] += delta.get("content", "")
        if "reasoning" in delta:
            assert delta["reasoning"] == delta["reasoning_content"]
            message["reasoning"] = message["reasoning_content"] = message.get("reasoning", "") + delta["reasoning"]
        for call in delta.get("tool_calls", []):
            calls = message.setdefault("tool_calls", [])
            if "id" in call:
                assert (
                    call["index"] == len(calls) and call["function"]["arguments"] == "" and call["type"] == "function"
                )
                calls.append({"id": None, "type": "function", "function": dict(call["function"])})
            else:
                assert set(call) == {"index", "function"}
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    if message.get("tool_calls"):
        message["content"] = message["content"] or None
    for call in whole["message"].get("tool_calls", []):
        call["id"] = None
    assert message == whole["message"]
    assert events(answer.text)[-2]["choices"][0]["finish_reason"] == whole["finish_reason"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "retrieval", "function": {"name": "x"}}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "function": {"name": "x", "parameters": []}}]}, "tools.0.function.parameters"),
        ({"tools": [WEATHER, WEATHER]}, "tools.1.function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice"),
        ({"tools": [WEATHER] * 300}, "tools"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"include_reasoning": "no"}, "include_reasoning"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
        ({"reasoning": {"effort": "enormous"}}, "reasoning.effort"),
        ({"reasoning_format": "deepseek-legacy"}, "reasoning_format"),
    ],
)
async def test_wrong_tools_are_named(fields, param):
    assert (await refused(**fields)).startswith(param)


@pytest.mark.parametrize("arguments", ["{oops", "[]", "0", '"{}"', "[" * 100, "{" * 60_000])
async def test_arguments_of_an_earlier_turn_that_are_no_object_are_shown_as_they_are(arguments):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    client = ScriptedClient(says("x"), max_model_len=100_000)
    async with serving(client, models={"toy": toy_model(template=CHATML, max_model_len=100_000)}) as http:
        answer = await http.post("/v1/chat/completions", json={"messages": messages})
    assert answer.status_code == 200, answer.text
    shown = json.dumps(arguments, ensure_ascii=False)
    assert f'{{"name": "f", "arguments": {{"arguments": {shown}}}}}' in prompt_of(client)


@pytest.mark.parametrize("arguments", ["", "{}", "null", None, {}])
async def test_a_call_of_an_earlier_turn_may_say_in_many_ways_that_it_had_no_arguments(arguments):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    client, answer = await post("x", template=CHATML, messages=[{"role": "assistant", "tool_calls": [call]}])
    assert answer.status_code == 200, answer.text
    assert '{"name": "f", "arguments": {}}' in prompt_of(client)


async def test_a_named_call_and_another_form_exclude_each_other():
    fields = {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}}
    assert await refused(**fields, structured_outputs={"regex": "a"}) == "structured_outputs"
    assert (await choice_of(CALL, **fields, response_format={"type": "json_object"}))["message"]["tool_calls"]


async def test_no_tools_are_as_good_as_none():
    assert (await choice_of("hi", tools=[], tool_choice="auto"))["message"]["content"] == "hi"


async def test_the_specifications_round_trip_runs_as_written():
    client = ScriptedClient(says(CALL), max_model_len=4096)
    model = toy_model(template=HERMES, max_model_len=4096)
    async with sdk(client, model=model) as public:
        question = {"role": "user", "content": "What's the weather in Boston?"}
        response = await public.chat.completions.create(
            messages=[question], model="toy", tools=[WEATHER], tool_choice="auto"
        )
        tool_call = response.choices[0].message.tool_calls[0]
        assert json.loads(tool_call.function.arguments) == {"city": "Paris, 巴黎"}
        await public.chat.completions.create(
            messages=[
                question,
                {"role": "assistant", "tool_calls": [tool_call]},
                {"role": "tool", "content": "sunny", "tool_call_id": tool_call.id},
            ],
            model="toy",
        )
        await public.chat.completions.create(messages=[question, response.choices[0].message], model="toy")
    said = toy_model().tokenizer.decode(list(client.requests[1].prompt), skip_special_tokens=False)
    assert "<tool_call>Paris, 巴黎</tool_call>" in said and "<|im_start|>tool\nsunny" in said


async def test_the_sdks_stream_helper_takes_the_calls():
    tool = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
    model = toy_model(template=HERMES, max_model_len=4096)
    async with sdk(ScriptedClient(says(CALL + CALL), max_model_len=4096), model=model) as public:
        async with public.chat.completions.stream(
            model="toy", messages=[{"role": "user", "content": "x"}], tools=[tool]
        ) as stream:
            async for _ in stream:
                pass
            final = await stream.get_final_completion()
    assert isinstance(final, openai.types.chat.ParsedChatCompletion)
    assert [call.function.arguments for call in final.choices[0].message.tool_calls] == [ARGUMENTS, ARGUMENTS]


async def test_a_template_without_tools_gets_them_in_words():
    results = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": "a",
            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "r1", "tool_call_id": "1"},
        {"role": "tool", "content": "r2", "tool_call_id": "2"},
    ]
    client, answer = await post(CALL, template=CHATML, tools=[WEATHER], messages=results)
    assert answer.json()["choices"][0]["finish_reason"] == "tool_calls"
    turns = prompt_of(client).split("<|im_start|>")[1:]
    assert turns[0].startswith("system\nBe brief.\n\n") and '{"name": "get_weather"' in turns[0]
    assert turns[2] == 'assistant\na\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call><|im_end|>\n'
    assert turns[3].startswith("user\n<tool_response>\nr1\n</tool_response>\n<tool_response>\nr2\n</tool_response>")


async def test_thinking_has_both_names_and_is_counted():
    _, answer = await post("<think>hm</think>yes", template=THINKING)
    body = answer.json()
    message = body["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "yes", "reasoning": "hm", "reasoning_content": "hm"}
    inside = len("hm</think>") - 1  # the token that closes it is no thinking any more
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": inside}


async def test_thinking_that_is_not_wanted_is_neither_shown_nor_told_in_ids_but_counted():
    script = says("<think>hm</think>yes", logprobs=True)
    fields = {"include_reasoning": False, "logprobs": True, "return_token_ids": True, "template": THINKING}
    _, answer = await post(script, **fields)
    body = answer.json()
    choice = body["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "yes"}
    told = b"".join(bytes(entry["bytes"]) for entry in choice["logprobs"]["content"])
    assert b"hm" not in told and told.endswith(b"yes")
    assert len(choice["token_ids"]) == len(choice["logprobs"]["content"])
    assert body["usage"]["completion_tokens"] == len("<think>hm</think>yes") + 1
    _, answer = await post(script, stream=True, **fields)
    assert '"reasoning"' not in answer.text


@pytest.mark.parametrize("template", [THINKING, HERMES + "{# </think> #}"])
@pytest.mark.parametrize("wish", [{"separate_reasoning": False}, {"reasoning_format": "none"}])
async def test_thinking_is_content_as_the_model_says_it_for_those_who_do_not_want_it_apart(template, wish):
    fields = {**wish, "template": template, "tools": [WEATHER]}
    said = "<think>hm, <tool_call></think>yes"  # a model may think of calls
    _, answer = await post(said + CALL, **fields)
    body = answer.json()
    message = body["choices"][0]["message"]
    assert message["content"] == said and "reasoning" not in message and len(message["tool_calls"]) == 1
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    _, answer = await post(said + CALL, stream=True, **fields)
    deltas = [event["choices"][0]["delta"] for event in events(answer.text)[:-1]]
    assert "".join(delta.get("content", "") for delta in deltas) == said
    assert not any("reasoning" in delta for delta in deltas)


async def test_thinking_told_as_content_is_no_part_of_a_document_or_a_call():
    fields = {"separate_reasoning": False, "template": THINKING}
    _, answer = await post("<think>hm</think>{}", response_format={"type": "json_object"}, **fields)
    assert answer.json()["choices"][0]["message"]["content"] == "<think>hm</think>{}"
    _, answer = await post("<think>hm</think>" + CALL, tools=[WEATHER], tool_choice="required", **fields)
    message = answer.json()["choices"][0]["message"]
    assert message["content"] == "<think>hm</think>" and len(message["tool_calls"]) == 1


TELLS_KWARGS = CHATML + "{# </think> #}{{ [enable_thinking, thinking, reasoning_effort] }}"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"reasoning_effort": "none"}, "[False, False, 'none']"),
        ({"reasoning_effort": "max"}, "[True, True, 'max']"),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, "[True, True, 'low']"),
        ({"reasoning": {"enabled": True, "reasoning_effort": "high"}}, "[True, True, 'high']"),
        ({"reasoning": {"effort": "none"}}, "[False, False, 'none']"),
        ({"reasoning": {"enabled": False}}, "[False, False, Undefined]"),
        ({"reasoning": {"enabled": True}}, "[True, True, Undefined]"),
        ({"reasoning": {"max_tokens": 9}}, "[Undefined, Undefined, Undefined]"),
        ({"reasoning_effort": "low", "chat_template_kwargs": {"thinking": False}}, "[True, False, 'low']"),
    ],
)
async def test_a_template_is_told_whether_to_think_by_whichever_name_it_asks_for(fields, told):
    client, _ = await post("x", template=TELLS_KWARGS, **fields)
    assert prompt_of(client).endswith(told)


async def test_thinking_that_is_excluded_is_not_told():
    _, answer = await post("<think>hm</think>yes", template=THINKING, reasoning={"exclude": True})
    assert answer.json()["choices"][0]["message"] == {"role": "assistant", "content": "yes"}


async def test_a_template_can_be_told_not_to_think():
    for fields in ({"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}):
        client, answer = await post("<think>x", template=THINKING, **fields)
        assert prompt_of(client).endswith("<think></think>")
        assert answer.json()["choices"][0]["message"]["content"] == "<think>x"


async def test_thinking_goes_back_under_either_name():
    template = "{{ messages[1].reasoning_content }}|{{ messages[1].reasoning }}"
    for key in ("reasoning", "reasoning_content"):
        messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", key: "t"}]
        client, _ = await post("x", template=template, messages=messages)
        assert prompt_of(client) == "t|t"


async def test_a_named_call_ends_like_text_and_a_required_one_as_a_call():
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice, reason in (("required", "tool_calls"), (named, "stop")):
        client, answer = await post(CALL, tools=[WEATHER], tool_choice=choice)
        assert answer.json()["choices"][0]["finish_reason"] == reason
        assert answer.json()["choices"][0]["message"]["tool_calls"]
        assert client.requests[0].grammar is not None


@pytest.mark.parametrize("size", [1, 5, len("<tool_call>\n"), len('<tool_call>\n{"name": "get_w')])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
async def test_a_forced_call_that_is_cut_before_its_name_leaves_nothing_to_read(choice, size):
    cut = says(CALL[:size], finish="length")
    _, answer = await post(cut, tools=[WEATHER], tool_choice=choice)
    told = answer.json()["choices"][0]
    assert told["message"] == {"role": "assistant", "content": ""} and told["finish_reason"] == "length"
    _, answer = await post(cut, tools=[WEATHER], tool_choice=choice, stream=True)
    assert not any(event["choices"][0]["delta"].get("content") for event in events(answer.text)[:-1])


async def test_a_document_may_come_where_a_call_could():
    form = {"type": "json_object"}
    choice = await choice_of("{}", tools=[WEATHER], response_format=form)
    assert choice["message"] == {"role": "assistant", "content": "{}"}
    choice = await choice_of(CALL, tools=[WEATHER], response_format=form)
    assert choice["finish_reason"] == "tool_calls"


async def test_a_stop_string_within_a_call_leaves_what_came_before():
    choice = await choice_of(CALL, tools=[WEATHER], stop="Paris")
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "'


def test_markers_that_are_special_tokens_are_shown_to_the_parser():
    vocabulary = toy_model().vocabulary
    marked = vocabulary.showing(["[<|im_start|>]"])
    assert (vocabulary.shown_bytes[1], marked.shown_bytes[1], marked.shown_bytes[2]) == (b"", b"<|im_start|>", b"")


HARMONY = (
    "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}{# <|channel|>final<|message|> #}"
    "{% for message in messages %}<|start|>{{ message.role }}<|message|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
ANALYSIS = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"


async def test_channels_come_out_as_thinking_calls_and_content():
    _, answer = await post(ANALYSIS + "<|channel|>final<|message|>Hello.", template=HARMONY)
    message = {"role": "assistant", "content": "Hello.", "reasoning": "Hm.", "reasoning_content": "Hm."}
    assert answer.json()["choices"][0]["message"] == message
    _, answer = await post(ANALYSIS + "<|channel|>final<|message|>Hi", template=HARMONY, include_reasoning=False)
    assert answer.json()["choices"][0]["message"] == {"role": "assistant", "content": "Hi"}
    assert answer.json()["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


async def test_a_model_without_the_tokens_of_channels_is_held_to_nothing():
    assert await refused(template=HARMONY, tools=[WEATHER]) == "tools"


async def test_a_form_stands_in_the_final_channel_only():
    assert await refused(template=HARMONY, guided_regex="x") == "guided_regex"


@pytest.mark.parametrize(
    "wrong", [{"type": "string", "enum": []}, {"type": "string", "pattern": "(["}, {"$ref": "#/components/Money"}]
)
async def test_a_schema_that_no_grammar_holds_names_its_tool(wrong):
    def tool(name, schema):
        parameters = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
        return {"type": "function", "function": {"name": name, "parameters": parameters}}

    tools = [tool("first", {"type": "string"}), tool("second_one", wrong), tool("third", {"type": "string"})]
    _, answer = await post("x", tools=tools)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == "tools.1.function.parameters"
    assert error["message"].startswith("tools.1.function.parameters.properties.x.") and "second_one" in error["message"]
