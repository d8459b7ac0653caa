"""A model that may think is held to its form, whether it thinks or not."""

import json

import jsonschema
import pytest

from engine.runtime.async_engine import AsyncEngine
from serve_app.text.reasoning_parser import REASONING_FORMATS
from tests.serve_app.chat.test_tools import THINKING
from tests.serve_app.random_engine import random_engine
from tests.serve_app.scripted import ScriptedClient, build_app, chat, config, events, says, serving, talking_to
from tests.serve_app.toy import CHATML, toy_model

URL = "/v1/chat/completions"
MARKERS = ("<think>", "</think>")
OPENED = CHATML + "{# </think> #}<think>\n"
OFF = {"chat_template_kwargs": {"enable_thinking": False}}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["red", "green"]}, "b": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "paint", "parameters": SCHEMA}}


def thinking_model(template: str = THINKING):
    return toy_model(template=template, kept=MARKERS)


OPENS, CLOSES = (thinking_model().tokenizer.token_to_id(marker) for marker in MARKERS)


@pytest.mark.parametrize(
    ("template", "fields", "opens", "begins_after"),
    [
        (THINKING, {}, (OPENS,), (CLOSES,)),
        (OPENED, {}, (), (CLOSES,)),
        (THINKING, OFF, (), ()),
        (THINKING, {"continue_final_message": True}, (), ()),
    ],
)
@pytest.mark.parametrize("form", [{"response_format": FORM}, {"tools": [TOOL], "tool_choice": "required"}])
async def test_the_grammar_begins_where_the_prompt_says(template, fields, opens, begins_after, form):
    client = ScriptedClient(says("x", finish="length"))
    async with serving(client, models={"toy": thinking_model(template)}) as http:
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
        answer = await http.post(URL, json={"messages": messages, **form, **fields})
    assert answer.status_code == 200, answer.text
    grammar = client.requests[0].grammar
    assert (grammar.opens, grammar.begins_after) == (opens, begins_after)


@pytest.fixture(params=[THINKING, OPENED])
async def http(request):
    model = thinking_model(request.param)
    client = AsyncEngine(random_engine(model))
    async with talking_to(build_app(client, config(), {"toy": model})) as http:
        yield http
    await client.close()


async def answers(http, **fields):
    """Finished ones, of a model that ends its thinking soon."""
    found = []
    for seed in range(12):
        body = chat(seed=seed, logit_bias={str(CLOSES): 9.0}, max_tokens=300, **fields)
        answer = await http.post(URL, json=body)
        assert answer.status_code == 200, answer.text
        choice = answer.json()["choices"][0]
        if choice["finish_reason"] != "length":
            found.append(choice)
    assert len(found) > 6
    return found


@pytest.mark.parametrize("fields", [{}, OFF, {"thinking_token_budget": 5}])
async def test_every_document_is_valid_after_thinking_and_without(http, fields):
    choices = await answers(http, response_format=FORM, temperature=1.5, **fields)
    for choice in choices:
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)
    thoughts = [bool(choice["message"].get("reasoning")) for choice in choices]
    assert any(thoughts) or fields == OFF


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "paint"}}])
async def test_every_forced_call_is_valid_after_thinking_and_without(http, choice):
    for one in await answers(http, tools=[TOOL], tool_choice=choice):
        call = one["message"]["tool_calls"][0]["function"]
        assert call["name"] == "paint"
        jsonschema.validate(json.loads(call["arguments"]), SCHEMA)


@pytest.mark.parametrize(("bias", "thinks"), [(-100.0, False), (100.0, True)])
async def test_a_model_that_does_not_think_is_held_from_its_first_token(bias, thinks):
    model = thinking_model()
    client = AsyncEngine(random_engine(model))
    async with talking_to(build_app(client, config(), {"toy": model})) as http:
        for seed in range(5):
            likely = {str(OPENS): bias, str(CLOSES): 100.0}
            fields = {"logit_bias": likely, "max_tokens": 400, "return_token_ids": True}
            body = chat(seed=seed, response_format=FORM, **fields)
            choice = (await http.post(URL, json=body)).json()["choices"][0]
            jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)
            assert (choice["token_ids"][0] == OPENS) == thinks
    await client.close()


@pytest.mark.parametrize("budget", [30, 34, 60])
async def test_thinking_leaves_room_for_a_document_that_must_fit(http, budget):
    for seed in range(6):
        fields = {"response_format": FORM, "structured_outputs": {"fit": True}, "max_tokens": budget, "seed": seed}
        body = (await http.post(URL, json=chat(**fields))).json()
        choice = body["choices"][0]
        assert choice["finish_reason"] == "stop" and body["usage"]["completion_tokens"] <= budget
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)
        stream = await http.post(URL, json=chat(**fields, stream=True))
        said = [one["choices"][0]["delta"].get("content") or "" for one in events(stream.text)[:-1]]
        assert "".join(said) == choice["message"]["content"]


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": FORM},
        {"response_format": FORM, "structured_outputs": {"fit": True}},
        {"tools": [TOOL], "tool_choice": "required"},
        {"response_format": FORM, "tools": [TOOL]},
    ],
)
@pytest.mark.parametrize("opened", [True, False])
async def test_markers_of_plain_text_are_told_from_the_document(fields, opened):
    format_ = REASONING_FORMATS["granite"]
    template = CHATML + format_.opens if opened else CHATML
    model = toy_model(template=template, reasoning_format=format_, max_model_len=1024)
    assert len(model.encode(format_.closes)) > 10
    client, num_thoughts, num_finished = AsyncEngine(random_engine(model)), 0, 0
    first = str(model.encode(format_.opens)[0])
    async with talking_to(build_app(client, config(), {"toy": model})) as http:
        for seed in range(12):
            likely = {first: 9.0} if seed % 2 else {}  # without it nobody begins with a marker
            body = chat(seed=seed, max_tokens=600, thinking_token_budget=9, logit_bias=likely, **fields)
            choice = (await http.post(URL, json=body)).json()["choices"][0]
            if choice["finish_reason"] == "length":
                continue
            num_finished += 1
            num_thoughts += bool(choice["message"].get("reasoning"))
            calls = choice["message"].get("tool_calls")
            document = calls[0]["function"]["arguments"] if calls else choice["message"]["content"]
            jsonschema.validate(json.loads(document), SCHEMA)
    await client.close()
    assert num_finished > 6 and num_thoughts > 2
