import time

import pytest

from engine.errors import RequestError
from serve_app.grammar.expansion import MAX_EXPANSION, expansion
from serve_app.grammar.json_grammar import json_grammar


def doubled(levels, last):
    """Each level is the next one, twice."""
    ways = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": {**ways, f"d{levels}": last}}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (True, 1),
        ({"type": "object", "properties": {"a": {"anyOf": [{}] * 300}}}, 1),  # nothing is written out
        ({"allOf": [{"type": "integer"}, {"minimum": 1}]}, 3),
        ({"allOf": [{"anyOf": [{}] * 10}, {"anyOf": [{}] * 10}]}, 500),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{}, {"$ref": "#"}]}}}, 1),
        ({"allOf": [{"$ref": "#"}]}, 3),
        ({"allOf": [{"$ref": "#/$defs/none"}, {"$ref": "elsewhere#/a"}, 5]}, 6),
    ],
)
def test_what_is_written_out_is_counted(schema, expected):
    assert expansion(schema) == expected


@pytest.mark.parametrize("last", [{"const": "x"}, {"type": "null"}, {"type": "object", "properties": {"a": {}}}])
@pytest.mark.parametrize("levels", [16, 40, 500])
def test_references_that_double_at_each_level_are_refused_at_once(levels, last):
    began_s = time.process_time()
    with pytest.raises(RequestError, match=f"^guided_json: allOf and references .* more than {MAX_EXPANSION} schemas"):
        json_grammar(doubled(levels, last), "guided_json")
    assert time.process_time() - began_s < 1


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf"])
def test_alternatives_that_multiply_are_refused(keyword):
    schema = {"allOf": [{keyword: [{"const": n} for n in range(10)]} for _ in range(10)]}
    assert expansion(schema) > MAX_EXPANSION


def test_siblings_of_a_reference_are_joined_with_it():
    schema = doubled(20, {"type": "object"})
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/d0", "minProperties": 1}},
        "$defs": schema["$defs"],
    }
    assert expansion(schema) > MAX_EXPANSION


def test_schemas_of_generators_are_small():
    names = {
        f"Model{n}": {"type": "object", "properties": {"next": {"$ref": f"#/$defs/Model{n + 1}"}}} for n in range(200)
    }
    schema = {"allOf": [{"$ref": "#/$defs/Model0"}, {"$ref": "#/$defs/Model100"}], "$defs": {**names, "Model200": {}}}
    assert expansion(schema) < 10
