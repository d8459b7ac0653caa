"""Schema expansion: the size of a schema after references and alternatives are expanded.

A reference is one rule of the grammar. But where several schemas apply at once (allOf, or keywords beside a reference),
llguidance merges them: it expands their references and combines every alternative of one with every alternative of the
others. A few lines of JSON can mean 2^40 schemas so.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from serve_app.grammar.references import listed, objects_in, target_of

__all__ = ["MAX_EXPANSION", "expansion"]

MAX_EXPANSION = 10_000  # schemas
ALTERNATIVES = ("anyOf", "oneOf")
BESIDE_A_REFERENCE = {"$defs", "definitions", "$comment", "title", "description", "default", "examples", "deprecated"}


class _Size(NamedTuple):
    schemas: int  # after expansion
    ways: int  # alternatives


def expansion(schema: Any) -> int:
    """The number of schemas in the largest expansion, capped a little over MAX_EXPANSION."""
    if not isinstance(schema, dict):
        return 1
    known: dict[int, _Size] = {}
    return max((_size(schema, one, known, ()).schemas for one in _joined(schema)), default=1)


def _joined(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema that llguidance merges from several."""
    for value in objects_in(schema):
        if "allOf" in value or ("$ref" in value and value.keys() - {"$ref"} - BESIDE_A_REFERENCE):
            yield value


def _size(root: dict[str, Any], schema: Any, known: dict[int, _Size], within: tuple[int, ...]) -> _Size:
    """The expanded size; a schema that refers to itself is expanded once."""
    if not isinstance(schema, dict) or id(schema) in within:
        return _Size(1, 1)
    if id(schema) not in known:
        inner = (*within, id(schema)) if len(within) < 100 else within
        known[id(schema)] = _capped(root, schema, known, inner) if len(within) < 100 else _Size(MAX_EXPANSION + 1, 1)
    return known[id(schema)]


def _capped(root: dict[str, Any], schema: dict[str, Any], known: dict[int, _Size], within: tuple[int, ...]) -> _Size:
    parts = [_size(root, one, known, within) for one in listed(schema.get("allOf"))]
    if isinstance(schema.get("$ref"), str):
        parts.append(_size(root, target_of(root, schema["$ref"]), known, within))
    for keyword in ALTERNATIVES:
        if one_of := [_size(root, one, known, within) for one in listed(schema.get(keyword))]:
            parts.append(_Size(sum(size.schemas for size in one_of), sum(size.ways for size in one_of)))
    schemas, ways = 1, 1
    for part in parts:  # every alternative of this part with every one of those before
        schemas, ways = schemas * part.ways + part.schemas * ways, ways * part.ways
        schemas, ways = min(schemas, MAX_EXPANSION + 1), min(ways, MAX_EXPANSION + 1)
    return _Size(schemas, ways)
