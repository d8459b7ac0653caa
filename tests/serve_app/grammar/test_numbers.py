"""Numbers in answers: what a grammar lets through satisfies the schema in exact decimals, wherever it stands."""

import json
import random
from fractions import Fraction
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import RequestError
from engine.structured_output.grammar import GrammarError, TokenTable
from engine.types import Grammar
from serve_app.grammar.exact_numbers import exact, json_text
from serve_app.grammar.schema_check import schema_fault
from serve_app.text.json_text import parse_json
from tests.serve_app.grammar.test_constraint import TOKENS, constraint, table, write

__all__ = ["table"]  # a fixture


def closed(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"n": schema}, "required": ["n"], "additionalProperties": False}


def form(schema: Any, strict: bool = True) -> dict[str, Any]:
    """As it comes from a body: numbers with their own digits."""
    schema = parse_json(json_text(schema))
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": strict}}
    }


def written(table: TokenTable, schema: Any, count: int = 8, strict: bool = True) -> list[Any]:
    grammar = constraint(**form(schema, strict)).grammar
    table.check(grammar)
    rng = random.Random(4)
    texts = [write(table, grammar, rng) for _ in range(count)]
    return [parse_json(text) for text in texts if text is not None]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "number", [2**53 + 1, 12345678901234567890, 2**64, -(2**70) - 1, 0, 1e300, 1.5, "12345678901234567890.5", "0.10"]
)
def test_a_constant_is_written_with_its_own_digits(table: TokenTable, number: Any, strict: bool) -> None:
    if isinstance(number, str):
        number = parse_json(number)
    for keyword in ({"const": number}, {"enum": [number]}, {"const": [number]}, {"const": {"a": number}}):
        for document in written(table, closed(keyword), 3, strict):
            found = document["n"]
            while isinstance(found, list | dict):
                found = found[0] if isinstance(found, list) else found["a"]
            assert exact(found) == exact(number)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        {"type": "integer", "minimum": 2**63 - 1, "maximum": 2**63 + 9},
        {"type": "integer", "exclusiveMinimum": 2**63 - 1, "maximum": 2**63 + 90},
        {"type": "integer", "minimum": -(2**63)},
        {"type": "integer", "minimum": 2**64, "multipleOf": 10},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 0.01},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e-20},
        {"type": "number", "multipleOf": 0.01, "minimum": 1.11, "maximum": 1.19},
        {"type": "number", "multipleOf": 0.01},
        {"type": "number", "multipleOf": 0.07, "minimum": 0},
        {"type": "number", "multipleOf": 0.3, "maximum": 1},
        {"type": "integer", "multipleOf": 7},
        {"type": "integer", "multipleOf": 1.5, "minimum": 1, "maximum": 1000},
        {"type": "number", "minimum": 1e300, "maximum": 1e308},
        {"type": "number", "exclusiveMinimum": 0.1, "maximum": 0.30000000000000004},
        {"allOf": [{"type": "integer"}, {"minimum": 2**62 + 1}, {"maximum": 2**62 + 3}]},
        {"type": ["integer", "null"], "minimum": 2**60, "maximum": 2**60 + 1},
        {"anyOf": [{"type": "integer", "minimum": 2**65}, {"type": "number", "maximum": -0.5}]},
    ],
)
def test_bounds_hold_exactly(table: TokenTable, schema: dict[str, Any]) -> None:
    documents = written(table, {"type": "array", "items": schema, "minItems": 1, "maxItems": 2})
    assert documents
    for number in (number for document in documents for number in document):
        assert schema_fault(number, schema) is None, number


@pytest.mark.parametrize("schema", [{"type": "integer"}, {"type": "number"}, {}, {"type": "object"}, {"type": "array"}])
def test_no_number_goes_on_for_ever(table: TokenTable, schema: dict[str, Any]) -> None:
    for begin, digits in (("", "1"), ("1.", "3"), ("-1", "7"), ("1e", "2")):
        matcher = table.matcher(Grammar(constraint(**form({"type": "object", "additionalProperties": schema})).grammar))
        inner = {"object": '{"a":', "array": "["}.get(schema.get("type", ""), "")
        with pytest.raises(GrammarError):
            for char in f'{{"k":{inner}{begin}' + digits * 60:
                matcher.consume(TOKENS.index(char.encode()))


def bounded(names: tuple[str, str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: NUMBERS for name in names})


NUMBERS = st.one_of(
    st.integers(-20, 20),
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 1e300, 1e-9, 0.1, 0.30000000000000004]),
    st.decimals(-1000, 1000, places=3).map(float),
    st.decimals(-(10**24), 10**24, places=6).map(lambda number: parse_json(f"{number:f}")),
)
STEPS = st.sampled_from([1, 2, 3, 5, 7, 10, 25, 60, 1000, 0.5, 0.25, 0.1, 0.01, 0.05, 0.07, 0.3, 1.5, 2.5, 1e-6, 12345])


@st.composite
def numeric(draw: st.DrawFn) -> dict[str, Any]:
    if draw(st.integers(0, 5)) == 0:
        return draw(
            st.one_of(NUMBERS.map(lambda n: {"const": n}), st.lists(NUMBERS, min_size=1).map(lambda n: {"enum": n}))
        )
    schema: dict[str, Any] = {"type": draw(st.sampled_from(["integer", "number"]))}
    for names in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        schema |= draw(bounded(names))
    return schema | draw(st.fixed_dictionaries({}, optional={"multipleOf": STEPS}))


@st.composite
def nested(draw: st.DrawFn) -> dict[str, Any]:
    one = draw(numeric())
    return draw(
        st.sampled_from(
            [
                one,
                closed(one),
                {"type": "array", "items": one, "minItems": 1, "maxItems": 2},
                closed({"anyOf": [one, {"type": "null"}]}),
                {"allOf": [one, {"minimum": -(2**66)}]},
                {"type": "object", "additionalProperties": one, "maxProperties": 2},
                {**closed({"$ref": "#/$defs/one"}), "$defs": {"one": one}},
                {"allOf": [closed(one), {"properties": {"n": {"maximum": 2**64 + 1}}, "additionalProperties": True}]},
            ]
        )
    )


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schema=nested(), strict=st.booleans())
def test_whatever_is_written_is_within_the_schema(table_of_test: TokenTable, schema: Any, strict: bool) -> None:
    try:
        documents = written(table_of_test, schema, 3, strict)
    except RequestError as refused:
        said = str(refused)
        assert said.startswith("response_format.json_schema.schema"), said
        assert "no document satisfies it" in said or (strict and "no grammar can hold" in said), said
        return
    except GrammarError as error:  # of what several schemas say of one object: told in words where answers are checked
        assert "Unsatisfiable" in str(error)
        return
    for document in documents if strict else ():
        assert schema_fault(document, schema) is None, (document, schema)


@pytest.fixture(scope="module")
def table_of_test(table: TokenTable) -> TokenTable:
    return table


@pytest.mark.parametrize(
    ("number", "schema", "is_good"),
    [
        ("1.16", {"multipleOf": 0.01}, True),
        ("1.165", {"multipleOf": 0.01}, False),
        ("12345678901234567890", {"const": 12345678901234567890}, True),
        ("12345678901234567891", {"const": 12345678901234567890}, False),
        ("9007199254740993", {"maximum": 9007199254740992}, False),
        ("0.1", {"exclusiveMinimum": 0.1}, False),
        ("12345678901234567890.5", {"minimum": 12345678901234567890.5}, True),
        ("1.0", {"enum": [1]}, True),
        ("1", {"const": True}, False),
    ],
)
def test_the_check_calculates_in_decimals(number: str, schema: dict[str, Any], is_good: bool) -> None:
    assert (schema_fault(parse_json(number), schema) is None) is is_good


def test_digits_are_kept_from_body_to_text() -> None:
    text = '{"a": [0.1, 12345678901234567890.5, 12345678901234567890, 1e22, 1.10]}'
    value = parse_json(text)
    assert json_text(value) == '{"a": [0.1, 12345678901234567890.5, 12345678901234567890, 1e+22, 1.1]}'
    assert [exact(one) for one in value["a"][:2]] == [Fraction("0.1"), Fraction("12345678901234567890.5")]
    assert json.loads(json.dumps(value))["a"][1] == 12345678901234567890.5
    for wrong in ("1e400", "1e-400", "1" + "0." + "1" * 2000):
        with pytest.raises(ValueError, match="holds a number"):
            parse_json(wrong)


def test_jsonschema_agrees_where_doubles_do(table: TokenTable) -> None:
    schema = closed({"type": "number", "minimum": -2.5, "exclusiveMaximum": 4, "multipleOf": 0.5})
    for document in written(table, schema):
        jsonschema.validate(document, schema)
