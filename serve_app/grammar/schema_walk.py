"""Schema walk: visits every subschema of a JSON schema, but no data."""

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["ONE", "SEVERAL", "Path", "rewritten", "schemas_in"]

Path = tuple[str, ...]  # to a subschema
DATA = {"const", "default", "enum", "examples"}  # keywords whose values are no schemas
# keywords that map names to schemas
SEVERAL = {"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"}
LISTS = {"anyOf", "allOf", "oneOf", "prefixItems"}
ONE = {
    *("items", "contains", "additionalProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties"),
    *("not", "if", "then", "else"),
}


def schemas_in(schema: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every subschema, valid or not, itself included, with its path; outer ones first."""
    waiting: list[tuple[Path, Any]] = [(path, schema)]
    while waiting:
        at, one = waiting.pop()
        yield at, one
        if not isinstance(one, dict):
            continue
        inner: list[tuple[Path, Any]] = []
        for key, value in one.items():
            if key in SEVERAL and isinstance(value, dict):
                inner += [((*at, key, name), item) for name, item in value.items() if not isinstance(item, list)]
            elif key in LISTS and isinstance(value, list):
                inner += [((*at, key, str(index)), item) for index, item in enumerate(value)]
            elif key in ONE and isinstance(value, dict):
                inner.append(((*at, key), value))
        waiting += reversed(inner)


def rewritten(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The schema with `change` applied to each subschema, inner ones first. Non-schemas are unchanged."""
    if isinstance(schema, list):
        return [rewritten(item, change) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner: dict[str, Any] = {}
    for key, value in schema.items():
        if key in SEVERAL and isinstance(value, dict):
            inner[key] = {name: rewritten(item, change) for name, item in value.items()}
        else:
            inner[key] = value if key in DATA else rewritten(value, change)
    return change(inner)
