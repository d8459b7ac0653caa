"""Schema upgrade: rewrites older drafts and OpenAPI 3.0 as JSON Schema 2020-12.

Schema generators still write them: tuples as a list under `items`, bounds made exclusive by a boolean, `required` as a
boolean of a property.
"""

from typing import Any

from serve_app.grammar.schema_walk import rewritten

__all__ = ["upgraded"]


def upgraded(schema: Any) -> Any:
    return rewritten(schema, _modern)


def _modern(schema: dict[str, Any]) -> dict[str, Any]:
    # $schema is dropped as well: it names the older draft
    gone = ("$schema", "additionalItems", "$recursiveAnchor")
    changed = {key: value for key, value in schema.items() if key not in gone}
    if changed.get("$recursiveRef") == "#" and "$ref" not in changed:  # within one document they are equivalent
        changed["$ref"] = changed.pop("$recursiveRef")
    items = schema.get("items")
    if isinstance(items, list):
        del changed["items"]
        if items:
            changed["prefixItems"] = items
        if "additionalItems" in schema:
            changed["items"] = schema["additionalItems"]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        is_exclusive = schema.get(exclusive)
        if isinstance(is_exclusive, bool):
            del changed[exclusive]
        if is_exclusive is True and bound in changed:
            changed[exclusive] = changed.pop(bound)
    return _with_required(changed)


def _with_required(schema: dict[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return schema
    said = {name: one.get("required") for name, one in properties.items() if isinstance(one, dict)}
    said = {name: is_required for name, is_required in said.items() if isinstance(is_required, bool)}
    if not said:
        return schema
    plain = {name: _without(one, "required") if name in said else one for name, one in properties.items()}
    required = schema.get("required", [])
    if isinstance(required, list):
        required = [*required, *(name for name, is_needed in said.items() if is_needed and name not in required)]
    return {**schema, "properties": plain, "required": required}


def _without(schema: dict[str, Any], keyword: str) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != keyword}
