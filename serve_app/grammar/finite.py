"""Finite satisfiability: whether some finite document satisfies a schema. A node that requires another node has none.

A least fixed point: a reference is finite if its target is finite without it.
"""

from typing import Any

from serve_app.grammar.references import listed, objects_in, target_of

__all__ = ["has_finite_document"]

MAX_REFERENCES = 500  # a schema with more is not checked
ALTERNATIVES = ("anyOf", "oneOf")


def has_finite_document(schema: Any) -> bool:
    """False only if every document would be infinite. Other contradictions are not checked."""
    references = _references(schema)
    if not references or len(references) > MAX_REFERENCES:
        return True
    ends: set[str] = set()
    while found := {one for one in references - ends if _ends(target_of(schema, one), ends)}:
        ends |= found
    return _ends(schema, ends)


def _ends(schema: Any, ends: set[str]) -> bool:
    """`ends`: the references that are known to be finite."""
    if not isinstance(schema, dict):
        return True
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference not in ends:
        return False
    if not all(_ends(one, ends) for one in listed(schema.get("allOf"))):
        return False
    for keyword in ALTERNATIVES:
        ways = listed(schema.get(keyword))
        if ways and not any(_ends(one, ends) for one in ways):
            return False
    kinds = schema.get("type")
    if kinds == "object":
        return _object_ends(schema, ends)
    if kinds == "array":
        return _array_ends(schema, ends)
    return True  # another type is allowed


def _object_ends(schema: dict[str, Any], ends: set[str]) -> bool:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return True
    return all(_ends(properties.get(name), ends) for name in listed(schema.get("required")) if isinstance(name, str))


def _array_ends(schema: dict[str, Any], ends: set[str]) -> bool:
    least, first = schema.get("minItems"), listed(schema.get("prefixItems"))
    if not isinstance(least, int) or least < 1:
        return True
    rest = [schema.get("items")] if least > len(first) else []
    return all(_ends(one, ends) for one in (*first[:least], *rest))


def _references(schema: Any) -> set[str]:
    return {value["$ref"] for value in objects_in(schema) if isinstance(value.get("$ref"), str)}
