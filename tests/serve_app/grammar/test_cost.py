"""What a schema takes before a worker compiles its grammar: the server waits for it."""

import time

import pytest

from engine.errors import RequestError
from serve_app.grammar.json_grammar import json_grammar
from serve_app.grammar.unsupported_keywords import without_unsupported_keywords

MOST_S = 6  # of a CPU; half a second to two on an idle machine


def nested(levels):
    schema = {"type": "integer"}
    for n in range(levels):
        wrapped = {"allOf": [{"type": "object", "properties": {"a": schema}}, {"required": ["a"]}]}
        schema = {"type": "array", "items": {"anyOf": [schema, {"type": "null"}]}} if n % 2 else wrapped
    return schema


OBJECT = {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(100)}}
HOSTILE = {
    "enum": {"type": "string", "enum": [f"value{n}" for n in range(20_000)]},
    "literal": {"type": "string", "pattern": "a" * 9_000},
    "anchors": {"type": "string", "pattern": "^" * 9_000},
    "classes": {"type": "string", "pattern": "[" * 9_000},
    "groups": {"type": "string", "pattern": "(" * 200_000},
    "look-ahead": {"type": "string", "pattern": "^(?=" + "[" * 900},
    "oneOf": {"oneOf": [{**OBJECT, "required": list(OBJECT["properties"])} for _ in range(99)]},
    "enums": {"oneOf": [{"enum": [f"{m}-{n}" for n in range(400)]} for m in range(20)]},
    "steps": {"items": {"anyOf": [{"type": "number", "maximum": n, "multipleOf": 7} for n in range(1_500)]}},
    "tiny": {"items": {"anyOf": [{"type": "number", "minimum": n * 1e-300} for n in range(1, 1_500)]}},
    "nesting": nested(60),
    "constants": {"enum": [{"a": n} for n in range(5_000)], "properties": {"a": {"minimum": 3}}},
    "unheld": {"properties": {f"p{n}": {"not": {"type": "integer"}} for n in range(2_000)}},
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_schema_takes_long(name, strict):
    began_s = time.process_time()
    try:
        grammar = json_grammar(HOSTILE[name] if strict else without_unsupported_keywords(HOSTILE[name]), "guided_json")
        assert len(grammar) < 2_000_000
    except RequestError as fault:
        assert str(fault).startswith("guided_json")
    assert time.process_time() - began_s < MOST_S
