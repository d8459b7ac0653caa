"""Checks a finished document against a client's JSON schema, at a cost that the client cannot choose.

Regular expressions are left out: the grammar has enforced them, and Python's can be made to run for hours. References
are followed within the schema only.
"""

from typing import Any

import jsonschema
from referencing import Registry
from referencing.exceptions import Unresolvable

__all__ = ["DATA", "NAMED", "schema_fault"]

DATA = {"const", "default", "enum", "examples"}  # keywords that hold no schema
NAMED = {"$defs", "definitions", "dependentSchemas", "properties"}  # keywords that hold schemas by name


def schema_fault(document: Any, schema: dict[str, Any] | bool) -> str | None:
    """What is wrong with the document, if anything is."""
    validator = jsonschema.Draft202012Validator(_without_patterns(schema), registry=Registry())
    try:
        error = next(validator.iter_errors(document), None)
    except (Unresolvable, RecursionError):  # the grammar could follow it; we need not
        return None
    return error.message[:500] if error is not None else None


def _without_patterns(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_patterns(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    dropped = {"pattern", "patternProperties"}
    if "patternProperties" in schema:  # what is additional depends on the patterns
        dropped |= {"additionalProperties", "unevaluatedProperties"}
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in NAMED and isinstance(value, dict):
            kept[key] = {name: _without_patterns(item) for name, item in value.items()}
        elif key not in dropped:
            kept[key] = value if key in DATA else _without_patterns(value)
    return kept
