"""Random JSON schemas over the keywords that are promised."""

import random
from typing import Any

__all__ = ["random_schema", "random_tools", "turns_with_calls"]

FORMATS = ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"]
PATTERNS = ["^[a-z]{2,5}$", "^(ab|cd)+$", "^\\d{3}-\\d{2}$", "^[A-Z][a-z]*$", "x[0-9]"]
NAMES = ["name", "age", "id", "tags", "städte", "a b", "x-y", "value", "next"]


def random_schema(rng: random.Random, depth: int = 3) -> dict[str, Any]:
    """A satisfiable schema. Nested at most `depth` deep, all of it sometimes behind a reference."""
    schema = _any(rng, depth)
    if rng.random() < 0.2:
        return {"$defs": {"root": schema}, "$ref": "#/$defs/root"}
    if rng.random() < 0.1:  # a list that ends because its tail may be null
        node = {
            "type": "object",
            "properties": {"v": _leaf(rng), "next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}},
        }
        return {"$defs": {"n": {**node, "required": ["v", "next"], "additionalProperties": False}}, "$ref": "#/$defs/n"}
    return schema


def _any(rng: random.Random, depth: int) -> dict[str, Any]:
    if depth == 0 or rng.random() < 0.35:
        return _leaf(rng)
    return rng.choice([_object, _object, _array, _union, _all_of])(rng, depth - 1)


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(NAMES, rng.randint(1, 4))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _any(rng, depth) for name in names},
        "required": rng.sample(names, rng.randint(0, len(names))),
        "additionalProperties": rng.choice([False, False, {"type": "integer"}]),
    }
    if rng.random() < 0.15:
        schema["patternProperties"] = {"^z": {"type": "boolean"}}
    if rng.random() < 0.15:
        return {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1, "maxProperties": 3}
    return schema


def _array(rng: random.Random, depth: int) -> dict[str, Any]:
    if rng.random() < 0.3:
        return {"type": "array", "prefixItems": [_any(rng, depth), _leaf(rng)], "items": False, "minItems": 2}
    low = rng.randint(0, 2)
    return {"type": "array", "items": _any(rng, depth), "minItems": low, "maxItems": low + rng.randint(0, 2)}


def _union(rng: random.Random, depth: int) -> dict[str, Any]:
    if rng.random() < 0.4:
        return {"oneOf": [{"type": "string", "maxLength": 5}, {"type": "integer"}, {"type": "boolean"}]}
    return {"anyOf": [_any(rng, depth), _leaf(rng)]}


def _all_of(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"allOf": [{"type": "integer"}, {"minimum": rng.randint(-5, 5)}, {"maximum": rng.randint(6, 50)}]}


def _leaf(rng: random.Random) -> dict[str, Any]:
    low = rng.randint(-20, 20)
    return rng.choice(
        [
            {"type": "string", "minLength": 1, "maxLength": rng.randint(1, 12)},
            {"type": "string", "pattern": rng.choice(PATTERNS)},
            {"type": "string", "format": rng.choice(FORMATS)},
            {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 100)},
            {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + 20},
            {"type": "number", "minimum": low, "maximum": low + 3.5},
            {"type": "integer", "multipleOf": rng.choice([3, 5]), "minimum": 0, "maximum": 100},
            {"type": ["string", "null"], "maxLength": 4},
            {"type": "boolean"},
            {"enum": ["red", "green", 3, None, {"a": [1]}]},
            {"const": rng.choice(["fixed", 7, [1, 2], None])},
        ]
    )


def random_tools(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Functions to call, each with an object of arguments."""
    return [
        {
            "type": "function",
            "function": {
                "name": f"{rng.choice(['get', 'set', 'find', 'send'])}_{rng.choice(['mail', 'note', 'map'])}_{index}",
                "description": f"Does thing number {index}",
                "parameters": _object(rng, 1),
            },
        }
        for index in range(count)
    ]


def turns_with_calls(names: list[str]) -> list[dict[str, Any]]:
    """A conversation in which every wish was answered by a call: a small model then goes on to call."""
    turns: list[dict[str, Any]] = []
    for index, name in enumerate(names):
        call = {"id": str(index), "type": "function", "function": {"name": name, "arguments": "{}"}}
        turns += [
            {"role": "user", "content": f"Call {name} now."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": str(index), "content": "done"},
        ]
    return turns
