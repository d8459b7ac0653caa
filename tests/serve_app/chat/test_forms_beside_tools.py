"""Any form of structured output beside tools in auto mode: text that is no call obeys it, a call obeys its schema."""

import json
import re

import jsonschema
import msgspec
import pytest

from engine.runtime.async_engine import AsyncEngine
from serve_app.tools.formats import TOOL_CALL_FORMATS
from tests.serve_app.chat.test_tools import HERMES
from tests.serve_app.random_engine import random_engine
from tests.serve_app.scripted import ScriptedClient, build_app, chat, config, says, serving, talking_to
from tests.serve_app.toy import toy_model

URL = "/v1/chat/completions"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
FORMS = {
    "regex": ({"regex": r"[a-c]{2,4}/\d{1,3}"}, r"[a-c]{2,4}/\d{1,3}"),
    "any text": ({"regex": r".{0,20}"}, r".{0,20}"),
    "choice": ({"choice": ["yes", "no {}", "<x>"]}, r"yes|no \{\}|<x>"),
    "lark": ({"grammar": 'start: "a" b\nb: /[}]c{2}/ "}"\n'}, r"a\}cc\}"),
    "gbnf": ({"grammar": 'root ::= "a" ("b" | "c")? "d"'}, r"a[bc]?d"),
}
FORMATS = ("hermes", "llama3_json", "mistral", "kimi_k2")  # the second one has no marker before a call


def model(name):
    found = toy_model(template=HERMES, max_model_len=4096)
    return msgspec.structs.replace(found, tool_call_format=TOOL_CALL_FORMATS[name])


@pytest.mark.parametrize(
    ("format_", "form"),
    [(one, form) for one in FORMATS for form in FORMS if one != "llama3_json" or "grammar" not in FORMS[form][0]],
)
async def test_an_answer_is_a_call_or_a_text_of_the_form(format_, form):
    outputs, regex = FORMS[form]
    served = model(format_)
    engine = AsyncEngine(random_engine(served))
    kinds = set()
    try:
        async with talking_to(build_app(engine, config(), {"toy": served})) as http:
            for seed in range(12):
                text = "x" * seed  # this engine's logits depend on the position
                body = chat(text, tools=[TOOL], structured_outputs=outputs, seed=seed, max_tokens=400)
                answer = await http.post(URL, json=body)
                assert answer.status_code == 200, answer.text
                message, reason = (answer.json()["choices"][0][name] for name in ("message", "finish_reason"))
                if reason == "length":
                    continue
                for call in message.get("tool_calls", ()):
                    jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)
                if not message.get("tool_calls"):
                    assert re.fullmatch(regex, message["content"]), message
                kinds.add("tool_calls" in message)
    finally:
        await engine.close()
    assert False in kinds


@pytest.mark.parametrize("form", ["lark", "gbnf"])
async def test_a_grammar_beside_calls_without_a_marker_is_refused(form):
    async with serving(ScriptedClient(says("x")), models={"toy": model("llama3_json")}) as http:
        answer = await http.post(URL, json=chat(tools=[TOOL], structured_outputs=FORMS[form][0]))
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "structured_outputs.grammar"


@pytest.mark.parametrize("form", FORMS)
async def test_a_call_stays_possible(form):
    call = '<tool_call>\n{"name": "f", "arguments": {"city": "Oslo"}}\n</tool_call>'
    client = ScriptedClient(says(call), max_model_len=4096)
    async with serving(client, models={"toy": model("hermes")}) as http:
        answer = await http.post(URL, json=chat(tools=[TOOL], structured_outputs=FORMS[form][0]))
    assert answer.json()["choices"][0]["finish_reason"] == "tool_calls"
    assert "calls" in client.requests[0].grammar.text
