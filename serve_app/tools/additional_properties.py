"""additionalProperties: false by default in tools' schemas, so that no unknown arguments are written.

A schema with `properties` alone allows others, but no tool's schema means it: a call `f(**arguments)` fails on them,
and a weak model likes to write them.
"""

from typing import Any

from serve_app.grammar.schema_walk import rewritten

__all__ = ["without_additional_properties"]

# keywords beside `properties` that may name further ones
COMBINING = {"anyOf", "oneOf", "$ref", "if", "then", "else", "dependentSchemas", "dependencies"}
SAYS_SO = {"additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames"}


def without_additional_properties(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without additional properties, at every depth, also where several schemas are combined."""
    combined = False

    def close(inner: dict[str, Any]) -> dict[str, Any]:
        nonlocal combined
        combined |= "allOf" in inner or ("properties" in inner and bool(COMBINING & inner.keys()))
        if SAYS_SO & inner.keys() or not _names_all(inner.get("properties"), inner.get("required", [])):
            return inner
        return {**inner, "additionalProperties": False}

    found: dict[str, Any] = rewritten(schema, close)
    return schema if combined else found


def _names_all(properties: Any, required: Any) -> bool:
    return isinstance(properties, dict) and isinstance(required, list) and all(name in properties for name in required)
