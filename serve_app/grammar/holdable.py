"""What of a schema a grammar can hold a model to.

Schemas come from other people's servers, and say more than a grammar can: where a client does not insist, a model is
held to what it can be, as it would be by a server that holds it to nothing.
"""

import json
import re
from typing import Any

from serve_app.grammar.pattern_properties import without_exhausted_patterns
from serve_app.grammar.schema_walk import rewritten

__all__ = ["in_clients_words", "said_plainly", "without_what_no_grammar_holds"]

BEYOND = {
    *("uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems"),
    *("propertyNames", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties"),
    *("not", "if", "then", "else"),
    *("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"),
}
# looking around, word boundaries and references to groups
BEYOND_PATTERNS = re.compile(r"\(\?<?[=!]|\\[bBk1-9]")
# formats that llguidance knows
FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
# keywords whose schemas say something of the same object
APPLYING = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "$ref", "$dynamicRef")
# keywords with the values under which they say nothing
IDLE: dict[str, tuple[Any, ...]] = {
    "uniqueItems": (False,),
    "propertyNames": (True, {}, {"type": "string"}),
    "unevaluatedItems": (True, {}),
    "unevaluatedProperties": (True, {}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
}


def said_plainly(schema: Any) -> Any:
    """The same in keywords that llguidance knows, as far as there are such."""
    return rewritten(schema, _plain)


def without_what_no_grammar_holds(schema: Any) -> Any:
    """A schema that allows at least the same, at every depth."""
    return rewritten(schema, lambda inner: _holdable(_plain(inner)))


def in_clients_words(fault: str, field: str) -> str:
    """What llguidance says of a grammar, with what to do about it where it names keywords of a schema."""
    keys = re.match(r"Unimplemented keys: (\[.*\])", fault)
    if keys is None and "coerce_one_of" not in fault:
        return fault
    what = ", ".join(json.loads(keys[1])) if keys is not None else "oneOf, unless its schemas are clearly apart"
    instead = "leave it out" if keys is not None else "use anyOf"
    or_else = ", or set strict to false" if field.startswith(("response_format", "tools")) else ""
    return f"no grammar can hold an answer to {what}; {instead}{or_else}"


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Without keywords that say nothing, and without formats that nobody knows: those are annotations (7.2.1)."""
    kept = {key: value for key, value in schema.items() if value not in IDLE.get(key, ())}
    if isinstance(kept.get("format"), str) and kept["format"] not in FORMATS:
        del kept["format"]
    if "unevaluatedProperties" in kept and not kept.keys() & {"additionalProperties", *APPLYING}:
        kept["additionalProperties"] = kept.pop("unevaluatedProperties")
    return without_exhausted_patterns(_with_named_properties(kept))


def _with_named_properties(schema: dict[str, Any]) -> dict[str, Any]:
    """Names that are all listed, or that match a pattern, as properties."""
    names, known = schema.get("propertyNames"), schema.get("properties", {})
    if not isinstance(names, dict) or not isinstance(known, dict):
        return schema
    asked = {key: value for key, value in names.items() if (key, value) != ("type", "string")}
    others = schema.get("additionalProperties", True)
    rest = {key: value for key, value in schema.items() if key != "propertyNames"}
    match list(asked.items()):
        case [("enum", list(listed))] if "patternProperties" not in schema:
            properties = {name: known.get(name, others) for name in listed if isinstance(name, str)}
            return {**rest, "properties": properties, "additionalProperties": False}
        case [("pattern", str(pattern))] if not {"properties", "patternProperties"} & schema.keys():
            return {**rest, "patternProperties": {pattern: others}, "additionalProperties": False}
    return schema


def _holdable(schema: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in BEYOND or (key == "pattern" and isinstance(value, str) and BEYOND_PATTERNS.search(value)):
            continue
        name = "anyOf" if key == "oneOf" and "anyOf" not in schema else key
        kept[name] = value
    return kept
