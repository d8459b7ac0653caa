"""One request that asks for much work holds up no other. Each of these once held the event loop, the GIL, or memory."""

import asyncio
import json
import time

import pytest

from configs.schema import ApiConfig
from tests.serve_app.scripted import ScriptedClient, chat, says, serving

pytestmark = pytest.mark.timeout(90)

MOST_LAG_S = 0.4  # of the event loop; without a bound these took 1 to 20 s. Idle, on a busy machine: some 0.05
MOST_S = 15.0


def doubled(levels, last):
    ways = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": {**ways, f"d{levels}": last}}


def form(schema):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def tools(count):
    properties = {f"p{n}": {"type": "string", "description": "x" * 20} for n in range(3)}
    parameters = {"type": "object", "properties": properties}
    return [{"type": "function", "function": {"name": f"f{n}", "parameters": parameters}} for n in range(count)]


def batch(count, **fields):
    return {"messages": [[{"role": "user", "content": "hi"}]] * count, **fields}


PROPERTIES = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(280)}}
HOSTILE = {
    "references that double, 30 levels": ("chat", chat(**form(doubled(30, {"const": "x"})))),
    "references that double, null at their end": ("chat", chat(**form(doubled(40, {"type": "null"})))),
    "references that double, in a tool": (
        "chat",
        chat(
            tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object", **doubled(40, {})}}}]
        ),
    ),
    "alternatives that multiply": (
        "chat",
        chat(guided_json={"allOf": [{"anyOf": [{"const": f"{a} {n}"} for n in range(9)]} for a in range(12)]}),
    ),
    "a schema of many ways": ("chat", chat(**form({"anyOf": [{}] * 3500}))),
    "a batch with a large schema": ("chat/completions/batch", batch(128, **form(PROPERTIES))),
    "a batch with many tools": ("chat/completions/batch", batch(128, tools=tools(80))),
    "brackets that nobody closes": ("chat", chat(guided_grammar="::=" + "[" * 100_000)),
    "quotes that nobody closes": ("chat", chat(guided_grammar="::=" + '"\\' * 50_000)),
    "empty lines": ("chat", chat(guided_grammar="::=" + "\n" * 200_000)),
    "white space before a colon": ("chat", chat(guided_grammar="start" + " " * 200_000 + "::= x")),
    "a list of empty stop strings": ("chat", chat(stop=[""] * 240_000)),
    "a prompt of empty lists": ("completions", {"prompt": [[]] * 39_000}),
    "a prompt of empty texts": ("completions", {"prompt": [""] * 240_000}),
    "a prompt of fractions": ("completions", {"prompt": [1.5] * 240_000}),
    "parts that are none": ("chat", {"messages": [{"role": "user", "content": [1] * 200_000}]}),
    "messages that are none": ("chat", {"messages": [{}] * 39_000}),
    "a schema as text, of brackets": ("chat", chat(guided_json="[" * 8000)),
    "a schema as text, nested": ("chat", chat(guided_json='{"not":' * 300)),
    "a call's arguments, of brackets": (
        "chat",
        {
            "messages": [
                {"role": "user", "content": "x"},
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "f", "arguments": "[" + "[]," * 1_000_000}}],
                },
            ]
        },
    ),
    "a regular expression of repeats": ("chat", chat(guided_regex="((((a{1,99}){1,99}){1,99}){1,99}){1,99}")),
    "a grammar that nests": ("chat", chat(guided_grammar="start: " + "(" * 20_000)),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_others_are_served_meanwhile(what):
    route, body = HOSTILE[what]
    path = f"/v1/{route}" if route != "chat" else "/v1/chat/completions"
    data = json.dumps(body).encode()
    async with serving(ScriptedClient(says("null")), ApiConfig()) as http:
        await http.get("/version")
        lags: list[float] = []
        waiting = asyncio.create_task(http.post(path, content=data, headers={"content-type": "application/json"}))
        began_s = time.monotonic()
        while not waiting.done() and time.monotonic() - began_s < MOST_S:
            asked_s = time.monotonic()
            assert (await http.get("/version")).status_code == 200
            lags.append(time.monotonic() - asked_s)
            await asyncio.sleep(0.02)
        assert waiting.done(), "it has no end"
        answer = waiting.result()
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text[:300]
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert error["message"] and len(error["message"]) < 2000
    assert max(lags) < MOST_LAG_S, sorted(lags)[-3:]


async def test_what_a_worker_is_killed_for_is_told(monkeypatch):
    """A grammar that takes too long to compile, whatever the reason: here, since nothing may take any time."""
    monkeypatch.setattr("tests.serve_app.scripted.WORKERS._cpu_s", -1.0)
    async with serving(ScriptedClient(says("null"))) as http:
        schema = {"type": "object", "properties": {f"some{n}": {"type": "string"} for n in range(3000)}}
        answer = await http.post("/v1/chat/completions", json=chat(guided_json=schema))
    assert answer.status_code == 400, answer.text
    assert "s of a CPU; make it smaller or simpler" in answer.json()["error"]["message"]
