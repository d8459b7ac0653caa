"""Constraints: whatever may be written under one satisfies it, and what makes no sense is a 400 that says where."""

import json
import random
import re
import string
from typing import Any

import jsonschema
import numpy as np
import pytest

from configs.schema import ApiConfig
from engine.errors import RequestError
from engine.structured_output.grammar import GrammarError, TokenTable, Vocabulary
from engine.types import Grammar
from serve_app.api.constraint_fields import ConstraintFields
from serve_app.grammar.constraint import Constraint, constraint_of
from serve_app.openai.output_format import structured_output_of
from tests.serve_app.schemas import random_schema

WORDS = ['{"', '": ', '", "', '"}', "true", "false", "null", "ab", "red", "ä", "日", "-", "\\u00", "  ", "\n\n"]
TOKENS = (
    b"<end>",
    *(char.encode() for char in string.printable),
    *(word.encode() for word in WORDS),
    b"\xe6\x97",
    b"\xa5",
)
CLOSING = {TOKENS.index(char) for char in (b'"', b"}", b"]", b"0", b"5")}


@pytest.fixture(scope="module")
def table() -> TokenTable:
    return TokenTable(Vocabulary(TOKENS, special_ids=(0,), end_ids=(0,)), len(TOKENS))


def constraint(**fields: Any) -> Constraint:
    found = constraint_of(structured_output_of(ConstraintFields.model_validate(fields)), ApiConfig())
    assert found is not None
    return found


def write(table: TokenTable, grammar: str, rng: random.Random, most: int = 3000) -> str | None:
    """A text that a model without any sense writes; None if it is not done in time."""
    matcher = table.matcher(Grammar(grammar))
    bits = np.empty(-(-len(TOKENS) // 32), dtype=np.int32)
    output: list[int] = []
    for _ in range(most):
        matcher.fill(bits)
        allowed = [token for token in range(len(TOKENS)) if bits[token // 32] >> (token % 32) & 1]
        assert allowed, f"nothing can follow {b''.join(TOKENS[token] for token in output)!r}"
        closing = [token for token in allowed if token in CLOSING]
        token = rng.choice(closing if closing and rng.random() < 0.3 else allowed)
        if 0 in allowed and (rng.random() < 0.5 or token == 0):
            return b"".join(TOKENS[token] for token in output).decode()
        matcher.consume(token)
        output.append(token)
    return None


def test_whatever_is_written_under_a_random_schema_satisfies_it(table: TokenTable) -> None:
    rng = random.Random(2)
    num_finished = 0
    for _ in range(200):
        schema = random_schema(rng)
        one = constraint(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
        table.check(one.grammar)
        text = write(table, one.grammar, rng)
        if text is not None:
            num_finished += 1
            jsonschema.validate(json.loads(text), schema)
    assert num_finished > 190


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"json_object": True}},
        {"structured_outputs": {"json": '{"type": "object"}'}},
        {"guided_json": {"type": "object"}},
    ],
)
def test_any_object_is_an_object_with_bounded_blanks(table: TokenTable, fields: dict[str, Any]) -> None:
    rng = random.Random(4)
    for _ in range(20):
        text = write(table, constraint(**fields).grammar, rng)
        if text is not None:
            assert isinstance(json.loads(text), dict)
    grammar = constraint(**fields).grammar
    blanks = table.matcher(Grammar(grammar))
    blanks.consume(TOKENS.index(b"{"))
    with pytest.raises(GrammarError):
        for _ in range(60):
            blanks.consume(TOKENS.index(b" "))


@pytest.mark.parametrize("prefix", ["guided_", "structured_outputs."])
def test_regex_choice_and_grammar(table: TokenTable, prefix: str) -> None:
    def asked(name: str, value: Any) -> str:
        if prefix == "guided_":
            return constraint(**{f"guided_{name}": value}).grammar
        return constraint(structured_outputs={name: value}).grammar

    rng = random.Random(1)
    options = ["yes", 'no "really"', "a|b", "(x", "ä日", "new\nline"]
    for _ in range(20):
        assert re.fullmatch("[ab]{2,4}-x", write(table, asked("regex", "[ab]{2,4}-x"), rng) or "")
        assert write(table, asked("choice", options), rng) in options
        assert re.fullmatch("a2*1", write(table, asked("grammar", 'start: "a" b\nb: "1" | "2" b'), rng) or "")
        assert write(table, asked("grammar", 'root ::= "a" ("1" | "2")'), rng) in ("a1", "a2")


SMALL = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object", "schema": SMALL}},
        {"response_format": {"type": "json_schema", "schema": SMALL}},
        {"json_schema": SMALL},
        {"json_schema": json.dumps(SMALL)},
    ],
)
def test_a_schema_holds_wherever_a_peer_takes_it(table: TokenTable, fields: dict[str, Any]) -> None:
    rng = random.Random(5)
    for _ in range(20):
        assert json.loads(write(table, constraint(**fields).grammar, rng) or "") in ({"a": 1}, {"a": 2})


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        ('?start: "a" b\n?b: "1" | "2"\n', "a[12]"),  # marks that shape Lark's trees
        ('!start: "a"', "a"),
        ('// a ::= b\n\nstart: A "::="\nA: /[ab]/', "[ab]::="),
        ('%import common.DIGIT\nstart: DIGIT x? -> one\nx: " #" /[a-c]/', "[0-9]( #[a-c])?"),
        ('root ::= start ":"\nstart ::= [ab]', "[ab]:"),
        ('root ::= "\\"start" start # start\nstart ::= [start] | last-start\nlast-start ::= "x"', '"start[startx]'),
        ('root::="a"', "a"),
    ],
)
def test_lark_and_gbnf_are_told_apart(table: TokenTable, grammar: str, pattern: str) -> None:
    rng = random.Random(7)
    for _ in range(20):
        assert re.fullmatch(pattern, write(table, constraint(grammar=grammar).grammar, rng) or "")


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"regex": "[ab]{2}-x"}, "[ab]{2}-x"),
        ({"ebnf": 'root ::= "Hello" | "Hey" [a-c]'}, "Hello|Hey[a-c]"),
        ({"grammar": 'root ::= "a"{5,5}'}, "a{5}"),
    ],
)
def test_texts_hold_as_peers_spell_them(table: TokenTable, fields: dict[str, Any], pattern: str) -> None:
    rng = random.Random(6)
    for _ in range(20):
        assert re.fullmatch(pattern, write(table, constraint(**fields).grammar, rng) or "")


def test_structural_tags_hold_inside_free_text(table: TokenTable) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    old = {"structures": [{"begin": "<f>", "schema": schema, "end": "</f>"}], "triggers": ["<f"]}
    content = {"type": "json_schema", "json_schema": schema}
    new = {
        "format": {
            "type": "triggered_tags",
            "triggers": ["<f"],
            "tags": [{"begin": "<f>", "content": content, "end": "</f>"}],
        }
    }
    for tag in (old, new):
        grammar = constraint(response_format={"type": "structural_tag", **tag}).grammar
        matcher = table.matcher(Grammar(grammar))
        for char in b'free <f>{"a":1}</f> and on':
            matcher.consume(TOKENS.index(bytes([char])))
        with pytest.raises(GrammarError):
            for char in b'<f>{"b"':
                matcher.consume(TOKENS.index(bytes([char])))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_object", "schema": {"type": "hiccup"}}}, "response_format.schema"),
        ({"response_format": {"type": "structural_tag"}}, "response_format"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[1]"}, "guided_json"),
        ({"guided_json": {"type": "nonsense"}}, "guided_json"),
        ({"guided_json": {"properties": 3}}, "guided_json"),
        ({"guided_json": False}, "guided_json"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
        ({"guided_grammar": "root ::= ("}, "guided_grammar"),
        ({"guided_regex": "a" * 300_000}, "guided_regex"),
        ({"json_schema": "{"}, "json_schema"),
        ({"regex": "a", "ebnf": 'root ::= "a"'}, "ebnf"),
        ({"grammar": "root ::= ("}, "grammar"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        constraint(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength"),
        ({"$ref": "#/$defs/nowhere"}, r"\$ref"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "string", "pattern": "(?=x)y"}, "pattern"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_its_keyword(schema: dict[str, Any], keyword: str) -> None:
    with pytest.raises(RequestError, match=rf"^guided_json\.properties\.a.*{keyword}"):
        constraint(guided_json={"type": "object", "properties": {"a": schema}, "required": ["a"]})


def test_unknown_formats_are_annotations(table: TokenTable) -> None:
    table.check(constraint(guided_json={"type": "string", "format": "iban"}).grammar)
