"""Structured output from the client's side; what a grammar makes of a form is test_constraint's."""

import pytest

from engine.runtime.async_engine import AsyncEngine
from engine.structured_output.grammar import TokenTable, Vocabulary
from engine.types import Grammar, RequestOutput
from tests.serve_app.chat.test_tools import THINKING, WEATHER
from tests.serve_app.random_engine import random_engine
from tests.serve_app.scripted import ScriptedClient, build_app, chat, config, events, says, serving, talking_to
from tests.serve_app.toy import byte_tokens, sentencepiece_model, toy_model

URL = "/v1/chat/completions"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


async def post(script, route=URL, model=None, **fields):
    client = ScriptedClient(says(script) if isinstance(script, str) else script)
    body = chat(**fields) if route == URL else {"prompt": "x", **fields}
    async with serving(client, models={"toy": model or toy_model()}) as http:
        return client, await http.post(route, json=body)


def allows(grammar: Grammar, text: str) -> bool:
    words = toy_model().vocabulary
    table = TokenTable(Vocabulary(words.all_bytes, tuple(words.special_ids), (2,)), words.num_tokens)
    matcher = table.matcher(grammar)
    try:
        for token in (*byte_tokens(text), 2):
            matcher.consume(token)
    except Exception:
        return False
    return True


@pytest.mark.parametrize("route", [URL, "/v1/completions"])
@pytest.mark.parametrize(
    "fields", [{"response_format": FORMAT}, {"guided_json": SCHEMA}, {"structured_outputs": {"json": SCHEMA}}]
)
async def test_the_grammar_reaches_the_engine(route, fields):
    client, answer = await post('{"a": 1}', route, **fields)
    assert answer.status_code == 200
    grammar = client.requests[0].grammar
    assert allows(grammar, '{"a": 1}') and not allows(grammar, '{"b": 1}')


async def test_text_is_no_constraint():
    client, _ = await post("x", response_format={"type": "text"})
    assert client.requests[0].grammar is None


async def test_an_answer_that_is_cut_may_be_no_document():
    _, answer = await post(says('{"a"', finish="length"), response_format=FORMAT)
    assert answer.json()["choices"][0]["finish_reason"] == "length"


async def test_an_answer_that_the_clients_stop_token_ends_may_be_no_document():
    token = 4 + ord(":")
    _, answer = await post(says('{"a":', eos=False), response_format=FORMAT, stop_token_ids=[token])
    assert (answer.status_code, answer.json()["choices"][0]["stop_reason"]) == (200, token)
    assert answer.json()["choices"][0]["message"]["content"] == '{"a"'


async def test_a_document_may_be_followed_by_the_token_that_ends_it_where_a_client_wants_to_see_it():
    fields = {"include_stop_str_in_output": True, "skip_special_tokens": False}
    _, answer = await post('{"a": 1}', response_format=FORMAT, **fields)
    assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, '{"a": 1}<|im_end|>')
    _, answer = await post('{"a": 1}', response_format=FORMAT, stop=":")
    assert answer.json()["choices"][0]["message"]["content"] == '{"a"'


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_grammar": 'start: "a" nothing'}, "guided_grammar"),
        ({"guided_json": {"allOf": [{"type": "string"}, {"type": "integer"}]}}, "guided_json"),
        ({"guided_regex": "(", "tools": [WEATHER]}, "guided_regex"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}]},
            "tools.0.function.parameters",
        ),
    ],
)
async def test_what_cannot_be_followed_is_refused_before_the_first_byte(fields, param, stream):
    client, answer = await post("x", stream=stream, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert client.requests == []


async def test_with_thinking_the_grammar_begins_after_it():
    thinking = toy_model(template=THINKING)
    client, answer = await post("<think>x</think>{}", model=thinking, response_format={"type": "json_object"})
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "{}"
    assert client.requests[0].grammar.begins_after == thinking.encode("</think>")
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    client, answer = await post("{}", model=thinking, response_format={"type": "json_object"}, **off)
    assert answer.status_code == 200 and client.requests[0].grammar.begins_after == ()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_grammar_that_compiles_and_yet_cannot_be_followed_is_the_clients_fault(stream):
    client = AsyncEngine(random_engine(toy_model()))
    async with talking_to(build_app(client, config(), {"toy": toy_model()})) as http:
        answer = await http.post(URL, json=chat(stream=stream, guided_regex="(a{1000}){1000}", max_tokens=8))
    await client.close()
    fault = answer.json()["error"]
    assert (answer.status_code, fault["code"], fault["param"]) == (400, 400, "guided_regex"), answer.text


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ({"guided_regex": "hello"}, "hello"),
        ({"guided_choice": ["hello world"]}, "hello world"),
        ({"guided_json": {"const": {"hello": "world"}}}, '"hello"'),
        ({"structured_outputs": {"json": {"const": "hello world"}, "fit": True}}, '"hello world"'),
        ({"tools": [WEATHER], "tool_choice": "required"}, None),
    ],
)
async def test_text_that_a_form_forces_is_followed_where_the_tokenizer_adds_a_space_before_a_text(fields, content):
    model = sentencepiece_model()
    client = AsyncEngine(random_engine(model))
    async with talking_to(build_app(client, config(), {"toy": model})) as http:
        answer = await http.post(URL, json=chat(seed=1, **fields))
    await client.close()
    assert answer.status_code == 200, answer.text
    message = answer.json()["choices"][0]["message"]
    assert content in message["content"] if content is not None else message["tool_calls"]


ALTERNATIVES = {
    "guided_grammar": "root ::= " + " | ".join(f'"w{number}"' for number in range(3000)),
    "guided_json": {"anyOf": [{"type": "object", "properties": {f"p{n}": {"type": "integer"}}} for n in range(2000)]},
    "guided_regex": "(a{1000}){1000}",
}


@pytest.mark.parametrize(
    ("field", "said"), [("guided_json", "more than 50000 rules"), ("guided_regex", "1000000 steps may be taken")]
)
async def test_a_grammar_beyond_a_limit_is_refused_in_words_that_name_it(field, said):
    client, answer = await post("x", **{field: ALTERNATIVES[field]})
    fault = answer.json()["error"]
    assert (answer.status_code, fault["param"]) == (400, field) and said in fault["message"], answer.text
    assert client.requests == []


async def test_a_rule_of_three_thousand_alternatives_is_followed():
    client, answer = await post("w2718", guided_grammar=ALTERNATIVES["guided_grammar"])
    assert answer.status_code == 200, answer.text
    assert allows(client.requests[0].grammar, "w2718") and not allows(client.requests[0].grammar, "w3000")


@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_in_the_middle_of_an_answer(stream):
    script = [*says("aa", finish=None), RequestOutput("", 0, 2, (), "grammar", error="too many expressions")]
    _, answer = await post(script, guided_regex="a+", stream=stream)
    fault = events(answer.text)[-2]["error"] if stream else answer.json()["error"]
    assert (answer.status_code, fault["code"], fault["param"]) == (200 if stream else 400, 400, "guided_regex")
