"""Functions are tools under an older name: what is true of one is true of the other."""

import json

import pytest

from tests.serve_app.chat.test_tools import ARGUMENTS, CALL, HERMES, WEATHER, choice_of, post, prompt_of, refused
from tests.serve_app.scripted import ScriptedClient, events, says, serving
from tests.serve_app.test_openai_sdk import sdk
from tests.serve_app.toy import CHATML, toy_model

FUNCTION = WEATHER["function"]


async def test_a_call_is_told_as_clients_of_functions_read_it():
    choice = await choice_of(CALL, functions=[FUNCTION])
    assert choice["finish_reason"] == "function_call"
    call = {"name": "get_weather", "arguments": ARGUMENTS}
    assert choice["message"] == {"role": "assistant", "content": None, "function_call": call}


async def test_its_stream_joined_is_the_call():
    _, answer = await post(CALL, functions=[FUNCTION], stream=True)
    choices = [event["choices"][0] for event in events(answer.text)[:-1]]
    pieces = [one["delta"]["function_call"] for one in choices if "function_call" in one["delta"]]
    assert [piece["name"] for piece in pieces if "name" in piece] == ["get_weather"]
    assert "".join(piece["arguments"] for piece in pieces) == ARGUMENTS
    assert choices[-1]["finish_reason"] == "function_call"
    assert not any("tool_calls" in one["delta"] for one in choices)


@pytest.mark.parametrize("older", ["none", "auto", {"name": "get_weather"}, None])
async def test_the_engine_is_asked_what_it_is_asked_with_tools(older):
    newer = {"type": "function", "function": older} if isinstance(older, dict) else older
    asked = []
    for fields in (
        {"functions": [FUNCTION], "function_call": older},
        {"tools": [WEATHER], "tool_choice": newer, "parallel_tool_calls": False},
    ):
        client, answer = await post(CALL, **fields)
        assert answer.status_code == 200, answer.text
        (request,) = client.requests
        asked.append((request.prompt, request.grammar))
    assert asked[0] == asked[1]


async def test_a_batch_takes_functions_too():
    client = ScriptedClient(says(CALL), max_model_len=4096)
    async with serving(client, models={"toy": toy_model(template=HERMES, max_model_len=4096)}) as http:
        body = {"messages": [[{"role": "user", "content": "x"}]] * 2, "functions": [FUNCTION]}
        answer = await http.post("/v1/chat/completions/batch", json=body)
    assert all(choice["message"]["function_call"] for choice in answer.json()["choices"])


async def test_only_one_function_is_called():
    message = (await choice_of(CALL + CALL, functions=[FUNCTION]))["message"]
    assert message["function_call"]["arguments"] == ARGUMENTS


async def test_calls_and_results_of_earlier_turns_are_read():
    template = HERMES.replace("{{ message.content }}", "{{ message.tool_call_id }}{{ message.content }}")
    template = template.replace("{{ call.function.arguments.city }}", "{{ call.id }}{{ call.function.arguments.city }}")
    messages = [
        {"role": "user", "content": "Paris?"},
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
        },
        {"role": "function", "name": "get_weather", "content": "sunny"},
    ]
    client, answer = await post("ok", template=template, messages=messages)
    assert answer.status_code == 200, answer.text
    assert "<tool_call>000000001Paris</tool_call>" in prompt_of(client)
    assert "<|im_start|>tool\n000000001sunny" in prompt_of(client)
    client, _ = await post("ok", template=CHATML, messages=messages)
    assert "<tool_response>\nsunny\n</tool_response>" in prompt_of(client)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [FUNCTION], "tools": [WEATHER]}, "functions"),
        ({"functions": [FUNCTION, FUNCTION]}, "functions.1.name"),
        ({"functions": [{"name": "f", "parameters": {"type": "string"}}]}, "functions.0.parameters"),
        ({"functions": [{}]}, "functions.0.name"),
        ({"functions": [FUNCTION], "function_call": {"name": "no"}}, "function_call"),
        ({"functions": [FUNCTION], "function_call": "required"}, "function_call"),
        ({"function_call": {"name": "no"}}, "function_call"),
        ({"tools": [WEATHER], "function_call": {"name": "get_weather"}}, "function_call"),
    ],
)
async def test_wrong_functions_are_named(fields, param):
    assert await refused(**fields) == param


async def test_the_sdks_round_trip_of_functions_runs():
    client = ScriptedClient(says(CALL), max_model_len=4096)
    async with sdk(client, model=toy_model(template=HERMES, max_model_len=4096)) as public:
        question = {"role": "user", "content": "Paris?"}
        first = await public.chat.completions.create(model="toy", messages=[question], functions=[FUNCTION])
        message = first.choices[0].message
        assert json.loads(message.function_call.arguments)["city"].startswith("Paris")
        result = {"role": "function", "name": message.function_call.name, "content": "sunny"}
        await public.chat.completions.create(
            model="toy", messages=[question, message, result], functions=[FUNCTION], function_call="none"
        )
    assert len(client.requests) == 2
