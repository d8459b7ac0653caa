"""Goes through a JSON schema: every schema in it, and nothing that is data."""

from collections.abc import Callable
from typing import Any

__all__ = ["rewritten"]

DATA = {"const", "default", "enum", "examples"}  # keywords that hold no schema
# keywords that hold schemas by name
NAMED = {"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"}


def rewritten(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The schema with each schema in it changed, inner ones first. What is no schema comes back as it is."""
    if isinstance(schema, list):
        return [rewritten(item, change) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner: dict[str, Any] = {}
    for key, value in schema.items():
        if key in NAMED and isinstance(value, dict):
            inner[key] = {name: rewritten(item, change) for name, item in value.items()}
        else:
            inner[key] = value if key in DATA else rewritten(value, change)
    return change(inner)
