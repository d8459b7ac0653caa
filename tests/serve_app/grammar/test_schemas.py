"""Schemas as clients really send them: other drafts, other dialects of patterns, more than a grammar can hold."""

import json
import random

import jsonschema
import pytest

from engine.errors import RequestError
from serve_app.grammar.schema_upgrade import upgraded
from serve_app.grammar.unsupported_keywords import explained, normalized, without_unsupported_keywords
from tests.serve_app.grammar.test_constraint import constraint, table, write
from tests.serve_app.scripted import ScriptedClient, chat, serving

__all__ = ["table"]  # a fixture

DRAFT_4, DRAFT_7 = jsonschema.Draft4Validator, jsonschema.Draft7Validator
AB = {"type": "object", "properties": {"a": {"const": 1}, "b": {"type": "integer"}}, "required": ["a"]}
PAIR = {"type": "array", "items": [{"type": "integer"}, {"enum": ["a", "b"]}], "minItems": 2}


def form(schema, **more):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}}


def written(table, one, count=20):
    rng = random.Random(3)
    table.check(one.grammar)
    return [json.loads(text) for _ in range(count) if (text := write(table, one.grammar, rng)) is not None]


@pytest.mark.parametrize(
    ("schema", "draft"),
    [
        ({**PAIR, "additionalItems": False}, DRAFT_7),
        ({**PAIR, "additionalItems": {"type": "null"}, "maxItems": 4}, DRAFT_7),
        ({"$schema": "http://json-schema.org/draft-07/schema#", **PAIR, "additionalItems": False}, DRAFT_7),
        ({"type": "array", "items": [], "maxItems": 0}, DRAFT_7),
        ({"type": "array", "items": {"type": "null"}, "additionalItems": False, "maxItems": 3}, DRAFT_7),
        ({"type": "integer", "minimum": 2, "exclusiveMinimum": True, "maximum": 4, "exclusiveMaximum": True}, DRAFT_4),
        ({"type": "integer", "minimum": 2, "exclusiveMinimum": False, "maximum": 3}, DRAFT_4),
        ({"type": "object", "properties": {"items": PAIR}, "required": ["items"]}, DRAFT_7),
    ],
)
def test_what_is_written_under_an_older_drafts_schema_satisfies_that_draft(table, schema, draft):
    one = constraint(**form(schema))
    documents = written(table, one)
    assert documents
    for document in documents:
        draft(schema).validate(document)


def test_recursion_of_2019_is_a_reference(table):
    schema = {
        "$recursiveAnchor": True,
        "type": "object",
        "properties": {"n": {"$recursiveRef": "#"}},
        "maxProperties": 1,
    }
    for document in written(table, constraint(**form(schema))):
        jsonschema.Draft201909Validator(schema).validate(document)


def test_data_in_a_schema_is_no_schema(table):
    data = {"items": [1], "exclusiveMinimum": True, "format": "iban", "uniqueItems": False, "properties": {}}
    schema = {"const": data, "default": data}
    assert upgraded(schema) == normalized(schema) == without_unsupported_keywords(schema) == schema
    assert written(table, constraint(**form(schema))) == [data] * 20
    closed = constraint(structured_outputs={"json": schema, "disable_additional_properties": True})
    assert written(table, closed) == [data] * 20


@pytest.mark.parametrize("pattern", [r"^\p{L}+$", r"^(?<year>\d{4})$", r"^\u{e4}$", r"^\/a\/$"])
def test_patterns_are_those_of_ecma(table, pattern):
    table.check(constraint(**form({"type": "string", "pattern": pattern})).grammar)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "null"}, "uniqueItems": False},
        {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "null"}},
        {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "null"}},
        {"type": "object", "propertyNames": {"type": "string", "pattern": "^a.?$"}, "additionalProperties": False},
        {"type": "object", "propertyNames": {"enum": ["a"]}, "properties": {"a": {"const": 1}, "b": {"const": 2}}},
        {"type": "object", "properties": {"a": {"const": 1}}, "unevaluatedProperties": True},
        {"type": "object", "properties": {"a": {"const": 1}}, "unevaluatedProperties": False},
    ],
)
def test_what_can_be_said_in_other_words_is_held(table, schema):
    documents = written(table, constraint(**form(schema)), 10)
    assert documents
    for document in documents:
        jsonschema.validate(document, schema)


INTEGERS = {"additionalProperties": {"type": "integer"}, "maxProperties": 2}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "schema",
    [
        *(
            {"type": "object", "propertyNames": names, **INTEGERS, "$defs": {"C": {"enum": ["apple", "pear"]}}}
            for names in (
                {"$ref": "#/$defs/C"},
                {"const": "key"},
                {"minLength": 1, "maxLength": 4},
                {"anyOf": [{"const": "a"}, {"enum": ["b", 3]}]},
                {"allOf": [{"type": "string"}, {"pattern": "^[ab]+$"}]},
                {"type": "string", "format": "uuid"},
                {"pattern": "^(?!ab)[a-c]{2,3}$"},
                False,
            )
        ),
        {"type": "object", "properties": {"a": {"const": 1}}, "propertyNames": {"maxLength": 2}, **INTEGERS},
        {"type": "object", "properties": dict.fromkeys("abc", {"const": 1}), "minProperties": 1, "maxProperties": 2},
        {"type": "array", "items": {"enum": ["a", "b", 1, 1.0]}, "uniqueItems": True, "minItems": 2},
        {"type": "array", "items": {"$ref": "#/$defs/B"}, "uniqueItems": True, "$defs": {"B": {"type": "boolean"}}},
        {"type": "string", "pattern": r"^(?!\.)(?!.*\.\.)[a-z.]{1,8}@[a-z]{2,5}\.[a-z]{2,3}$"},
        {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d{0,3}\.?\d{0,2}$"},
        {"type": "string", "pattern": r"^(?=.*\d)(?=.*[a-z]).{4,9}$", "maxLength": 6},
        {"type": "string", "format": "date", "pattern": "^2023-02-2"},
        {
            "allOf": [{"$ref": "#/$defs/A"}, {"properties": {"b": {"const": 2}}, "required": ["b"]}],
            "$defs": {"A": AB},
        },
        {"oneOf": [{"type": "string", "maxLength": 2}, {"type": "array", "maxItems": 0}]},
        {"type": "object", "properties": {"t": {"const": 1}}, "anyOf": [{"required": ["t"]}, {"maxProperties": 0}]},
    ],
)
def test_what_a_grammar_can_hold_in_some_way_is_held(table, schema, strict):
    documents = written(table, constraint(**form(schema, strict=strict)), 10)
    assert documents
    for document in documents:
        jsonschema.validate(document, schema, format_checker=jsonschema.FormatChecker())


BEYOND = {"type": "array", "items": {"oneOf": [{"type": "integer"}, {"type": "number"}]}, "uniqueItems": True}


def test_a_schema_that_is_not_strict_is_held_as_far_as_can_be(table):
    with pytest.raises(RequestError, match="uniqueItems"):
        constraint(**form(BEYOND))
    one = constraint(**form({**BEYOND, "maxItems": 3}, strict=False))
    documents = written(table, one)
    assert documents and all(isinstance(item, (int, float)) for document in documents for item in document)


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"not": {"type": "string"}}, "to not; leave it out, or set strict to false"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "use anyOf, or set strict to false"),
        ({"type": "string", "pattern": "^(?=a)b"}, "look-around"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        (
            {"properties": {"a": {"type": "str"}}},
            "a.type: 'str' is not one of ['array', 'boolean'",
        ),
    ],
)
async def test_a_client_learns_what_to_do_about_its_schema(schema, told):
    async with serving(ScriptedClient([])) as http:
        answer = await http.post("/v1/chat/completions", json=chat(**form(schema)))
    assert answer.status_code == 400
    fault = answer.json()["error"]
    assert fault["param"] == "response_format.json_schema.schema" and told in fault["message"]


def test_strict_is_named_only_where_it_is_a_field():
    fault = "patternProperty regexes /a/ and /b/ are not disjoint"
    assert "strict" not in explained(fault, "patternProperties", "guided_json")
    assert "set strict to false" in explained(fault, "patternProperties", "tools.0.function.parameters")
    assert explained("something else", "", "tools") == "something else"


def test_what_is_no_schema_is_refused_and_not_stumbled_over():
    for strict in (True, False):
        with pytest.raises(RequestError):
            constraint(**form({"properties": 3, "propertyNames": {"enum": []}}, strict=strict))
    with pytest.raises(RequestError):
        constraint(**form({"propertyNames": [1]}))
    wrong = {"propertyNames": [1], "items": [2]}
    assert without_unsupported_keywords(wrong) == wrong
