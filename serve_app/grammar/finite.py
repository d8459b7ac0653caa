"""Satisfiability: is there a finite document that satisfies a schema? A node that needs another node has none.

The least fixed point: a reference has an end when what it refers to has one without it.
"""

from typing import Any

from serve_app.grammar.references import listed, objects_in, target_of

__all__ = ["has_finite_document"]

MAX_REFERENCES = 500  # of a schema with more nothing is said
ALTERNATIVES = ("anyOf", "oneOf")


def has_finite_document(schema: Any) -> bool:
    """False only where every document would go on for ever. Other contradictions are not looked for."""
    references = _references(schema)
    if not references or len(references) > MAX_REFERENCES:
        return True
    ends: set[str] = set()
    while found := {one for one in references - ends if _ends(target_of(schema, one), ends)}:
        ends |= found
    return _ends(schema, ends)


def _ends(schema: Any, ends: set[str]) -> bool:
    """`ends` are the references that are known to have an end."""
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
    return True  # something else may be written


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
