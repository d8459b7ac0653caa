"""allOf: merges schemas that apply at once into one; and finds schemas that are pairwise disjoint."""

from collections.abc import Iterator
from itertools import count
from typing import Any

from serve_app.grammar.exact_numbers import same
from serve_app.grammar.keywords import BEYOND, COUNTS, NUMERIC, TYPES, kept
from serve_app.grammar.number_schema import number_range, range_schema
from serve_app.grammar.references import target_of

__all__ = ["CannotMerge", "are_disjoint", "joined", "listed_names", "listed_values"]

MAX_REFERENCES = 20  # in a chain
MAX_PAIRS = 10_000
OBJECTS = {"properties", "required"}
# keywords whose meaning depends on others beside them
BOUND_TOGETHER = ("additionalProperties", "patternProperties", "prefixItems", "items")


class CannotMerge(Exception):
    """The schemas cannot be merged by these rules."""


def joined(root: Any, schema: dict[str, Any]) -> dict[str, Any] | bool:
    """An equivalent schema without $ref and allOf at its top. Raises CannotMerge."""
    parts = _parts(root, schema, 0)
    if False in parts:
        return False
    whole: dict[str, Any] = {}
    for part in parts:
        if isinstance(part, dict):
            whole = _both(whole, part)
    return whole


def listed_names(schema: Any) -> list[str] | None:
    """The strings that satisfy a merged schema, if it lists them."""
    values = listed_values(schema)
    return None if values is None else [value for value in values if isinstance(value, str)]


def listed_values(schema: Any) -> list[Any] | None:
    """The values that satisfy a merged schema, if it lists them."""
    if schema is False:
        return []
    if not isinstance(schema, dict) or schema.keys() - {"type", "const", "enum"}:
        return None
    return [False, True] if schema.get("type") == "boolean" else _values(schema)


def are_disjoint(root: Any, schemas: list[Any]) -> bool:
    """Whether it is certain that no document satisfies two of them."""
    if len(schemas) ** 2 > MAX_PAIRS:
        return False
    known = [_one(root, schema) for schema in schemas]
    steps = count()
    return all(_disjoint(root, one, other, steps) for n, one in enumerate(known) for other in known[:n])


def _parts(root: Any, schema: Any, depth: int) -> list[Any]:
    """The parts of a schema, with references and allOf resolved."""
    if not isinstance(schema, dict):
        return [schema]
    if depth > MAX_REFERENCES:
        raise CannotMerge
    asked = kept(schema)
    if asked.keys() & BEYOND:
        raise CannotMerge
    idle = {key for key in ("additionalProperties", "items") if asked.get(key) in (True, {})}
    parts = [{key: value for key, value in asked.items() if key not in ("$ref", "allOf", *idle)}]
    if "$ref" in asked:
        parts += _parts(root, target_of(root, asked["$ref"]), depth + 1)
    for one in asked.get("allOf", []):
        parts += _parts(root, one, depth + 1)
    return [part for part in parts if part not in ({}, True)]


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    if not one or not other:
        return one or other
    shared = one.keys() & other.keys()
    apart = _is_type_only(one, other) or _are_closed(one, other) or _are_closed(other, one)
    if any(key in BOUND_TOGETHER for key in (*one, *other)) and not apart:
        raise CannotMerge
    whole = {**one, **other}
    if "type" in shared:
        whole["type"] = _types(one["type"], other["type"])
    if any(key in NUMERIC for key in shared):
        numbers = range_schema(number_range({**one, "type": "number"}).both(number_range({**other, "type": "number"})))
        whole = {key: value for key, value in whole.items() if key not in NUMERIC} | numbers
    for key in shared & COUNTS:
        whole[key] = (max if key.startswith("min") else min)(one[key], other[key])
    if "required" in shared:
        whole["required"] = [*dict.fromkeys([*one["required"], *other["required"]])]
    if "properties" in shared:
        whole["properties"] = _properties(one["properties"], other["properties"])
    if shared - {"type", "required", "properties", *NUMERIC, *COUNTS}:
        raise CannotMerge
    return whole


def _is_type_only(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether one of them has no keyword but the type."""
    return one.keys() == {"type"} or other.keys() == {"type"}


def _are_closed(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether both are objects and `one` lists all properties of `other`, so that its additionalProperties applies."""
    bound = {key for key in (*one, *other) if key in BOUND_TOGETHER}
    return bound == {"additionalProperties"} and not (
        "additionalProperties" in other or other.get("properties", {}).keys() - one.get("properties", {}).keys()
    )


def _types(one: Any, other: Any) -> list[str]:
    ours, others = (list(types) if isinstance(types, list) else [types] for types in (one, other))
    found = [name for name in ours if name in others or (name == "integer" and "number" in others)]
    return found + [name for name in others if name == "integer" and "number" in ours and name not in found]


def _properties(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {name: {"allOf": [one[name], other[name]]} for name in one if name in other and one[name] != other[name]}
    return {**one, **other, **both}


def _one(root: Any, schema: Any) -> Any:
    try:
        return joined(root, schema) if isinstance(schema, dict) else schema
    except CannotMerge:
        return {}


def _disjoint(root: Any, one: Any, other: Any, steps: Iterator[int]) -> bool:
    """Whether two schemas are disjoint; False also after too many steps."""
    if next(steps) > MAX_PAIRS:
        return False
    if one is False or other is False:
        return True
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    if not _types(_kinds(one), _kinds(other)):
        return True
    ours, others = _values(one), _values(other)
    if ours is not None and others is not None:
        return len(ours) * len(others) <= MAX_PAIRS and not any(same(value, than) for value in ours for than in others)
    if _kinds(one) == _kinds(other) == ["object"]:
        needed = {*one.get("required", []), *other.get("required", [])}
        mine, theirs = one.get("properties", {}), other.get("properties", {})
        return any(
            _disjoint(root, _one(root, mine.get(name, True)), _one(root, theirs.get(name, True)), steps)
            for name in needed
        )
    return False


def _kinds(schema: dict[str, Any]) -> list[str]:
    types = schema.get("type")
    if types is None and (values := _values(schema)) is not None:
        return [*{_kind(value) for value in values}]
    return list(types) if isinstance(types, list) else list(TYPES) if types is None else [types]


def _values(schema: dict[str, Any]) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _kind(value: Any) -> str:
    kinds = {bool: "boolean", str: "string", list: "array", dict: "object", type(None): "null"}
    return kinds.get(type(value), "number")
