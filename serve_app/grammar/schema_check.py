"""Checks a finished document against a client's JSON schema, at a cost that the client cannot choose.

Regular expressions are left out: the grammar has enforced them, and Python's can be made to run for hours. References
are followed within the schema only.
"""

from typing import Any

import jsonschema
from referencing import Registry
from referencing.exceptions import Unresolvable

from serve_app.grammar.schema_walk import rewritten

__all__ = ["schema_fault"]


def schema_fault(document: Any, schema: dict[str, Any] | bool) -> str | None:
    """What is wrong with the document, if anything is."""
    validator = jsonschema.Draft202012Validator(rewritten(schema, _without_patterns), registry=Registry())
    try:
        error = next(validator.iter_errors(document), None)
    except (Unresolvable, RecursionError):  # the grammar could follow it; we need not
        return None
    return error.message[:500] if error is not None else None


def _without_patterns(schema: dict[str, Any]) -> dict[str, Any]:
    dropped = {"pattern", "patternProperties"}
    if "patternProperties" in schema:  # what is additional depends on the patterns
        dropped |= {"additionalProperties", "unevaluatedProperties"}
    return {key: value for key, value in schema.items() if key not in dropped}
