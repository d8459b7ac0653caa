"""JSON Schema keywords, by how grammars support them."""

from typing import Any

__all__ = ["BEYOND", "COUNTS", "FORMATS", "NUMERIC", "TEXTUAL", "TYPES", "kept"]

TYPES = ("null", "boolean", "number", "string", "array", "object")
NUMERIC = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
TEXTUAL = ("minLength", "maxLength", "pattern", "format")
COUNTS = {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
# keywords that no grammar supports
BEYOND = {
    *("contains", "minContains", "maxContains", "unevaluatedItems"),
    *("dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties"),
    *("not", "if", "then", "else"),
    *("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"),
}
IMPLEMENTED = {
    *("anyOf", "oneOf", "allOf", "$ref", "const", "enum", "type"),
    *("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    *("properties", "additionalProperties", "patternProperties", "required", "minProperties", "maxProperties"),
    "propertyNames",
    *NUMERIC,
    *TEXTUAL,
}
# formats that llguidance supports
FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}


def kept(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without annotations."""
    return {key: value for key, value in schema.items() if key in IMPLEMENTED or key in BEYOND}
