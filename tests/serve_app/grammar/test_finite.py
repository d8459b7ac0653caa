import time

import pytest

from engine.errors import RequestError
from serve_app.grammar.finite import has_finite_document
from serve_app.grammar.json_grammar import json_grammar

NODE = {"$ref": "#/$defs/node"}


def node(**fields):
    return {**NODE, "$defs": {"node": {"type": "object", **fields}}}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (True, True),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, True),
        (node(properties={"next": NODE}), True),
        (node(properties={"next": NODE}, required=["next"]), False),
        (node(properties={"next": {"anyOf": [NODE, {"type": "null"}]}}, required=["next"]), True),
        (node(properties={"next": {"anyOf": [NODE, {"allOf": [NODE]}]}}, required=["next"]), False),
        (node(properties={"all": {"type": "array", "items": NODE}}, required=["all"]), True),
        (node(properties={"all": {"type": "array", "items": NODE, "minItems": 1}}, required=["all"]), False),
        (node(properties={"all": {"type": "array", "prefixItems": [{}, NODE], "minItems": 1}}, required=["all"]), True),
        (node(properties={"all": {"type": "array", "prefixItems": [NODE], "minItems": 1}}, required=["all"]), False),
        (node(properties={"next": {"type": ["object", "null"]}}, required=["next"]), True),
        ({"$ref": "#"}, False),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, True),
        ({"type": "array", "items": {"$ref": "#"}}, True),
        (
            {
                "$ref": "#/$defs/a",
                "$defs": {
                    "a": {"type": "object", "properties": {"b": {"$ref": "#/$defs/b"}}, "required": ["b"]},
                    "b": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]},
                },
            },
            False,
        ),
        ({"$ref": "#/$defs/none"}, True),
    ],
)
def test_a_document_may_have_an_end(schema, expected):
    assert has_finite_document(schema) is expected


def test_a_schema_without_end_is_refused_in_words():
    with pytest.raises(RequestError, match=r"^response_format: no document satisfies it that has an end") as refused:
        json_grammar(node(properties={"next": NODE}, required=["next"]), "response_format")
    assert refused.value.param == "response_format"


@pytest.mark.parametrize("count", [400, 20_000])
def test_long_chains_of_references_take_no_time(count):
    chain = {
        f"n{n}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/n{n + 1}"}}, "required": ["a"]}
        for n in range(count)
    }
    began_s = time.process_time()
    assert has_finite_document({"$ref": "#/$defs/n0", "$defs": {**chain, f"n{count}": {"type": "null"}}})
    assert time.process_time() - began_s < 1
