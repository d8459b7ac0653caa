"""Patterns that overlap with listed properties: no answer may come to a place where nothing can follow."""

import json
import random
from typing import Any

import jsonschema
import pytest

from engine.structured_output.grammar import TokenTable, Vocabulary
from serve_app.grammar.json_grammar import json_grammar
from serve_app.grammar.pattern_properties import without_exhausted_patterns
from tests.serve_app.grammar.test_constraint import TOKENS, write

TABLE = TokenTable(Vocabulary(TOKENS, special_ids=(0,), end_ids=(0,)), len(TOKENS))
SHORT = {"type": "string", "maxLength": 3}


def closed(names: list[str], patterns: dict[str, Any], **more: Any) -> dict[str, Any]:
    properties = dict.fromkeys(names, SHORT)
    return {"type": "object", "properties": properties, "patternProperties": patterns, **more}


@pytest.mark.parametrize(
    ("names", "patterns", "kept"),
    [
        (["name", "grade"], {"^grade$": True}, []),
        (["ga", "gb"], {"^g[ab]$": True, "^h": True}, ["^h"]),
        (["ga"], {"^(ga|gb)$": True}, ["^(ga|gb)$"]),
        (["ga"], {"ga": True}, ["ga"]),
        (["é", 'x"y'], {'^(é|x"y)$': True}, []),
        (["a\n"], {"^a$": True}, ["^a$"]),
        (["a"], {"(?=x)y": True}, ["(?=x)y"]),
        (["\ud800", "a"], {"^a$": True}, ["^a$"]),
    ],
)
def test_only_what_the_names_exhaust_is_left_out(names: list[str], patterns: dict[str, Any], kept: list[str]) -> None:
    assert list(without_exhausted_patterns(closed(names, patterns))["patternProperties"]) == kept


def test_what_the_pattern_asks_for_is_asked_of_the_property() -> None:
    found = without_exhausted_patterns(closed(["ga", "name"], {"^ga$": {"minLength": 2}}))
    assert found["properties"] == {"ga": {"allOf": [SHORT, {"minLength": 2}]}, "name": SHORT}


@pytest.mark.parametrize("required", [[], ["ga"], ["ga", "gb"]])
@pytest.mark.parametrize("others", [False, {"type": "integer"}])
@pytest.mark.parametrize("pattern", ["^ga$", "^g[ab]$", "^g[abc]$", "^g", "a"])
def test_every_answer_comes_to_an_end(pattern: str, others: Any, required: list[str]) -> None:
    schema = closed(["ga", "gb"], {pattern: {"minLength": 1}}, required=required, additionalProperties=others)
    rng = random.Random(f"{pattern}{others}{required}")
    num_whole = 0
    for _ in range(30):
        text = write(TABLE, json_grammar(schema, "x"), rng)
        if text is not None:
            jsonschema.validate(json.loads(text), schema)
            num_whole += 1
    assert num_whole > 3
