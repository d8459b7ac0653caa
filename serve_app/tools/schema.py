"""What of a tool's schema a grammar can hold a model to.

Schemas come from other people's servers, and say more than a grammar can: a tool that is not strict is held to what it
can, as it would be by a server that holds it to nothing.
"""

import re
from typing import Any

from serve_app.grammar.schema_check import DATA, NAMED

__all__ = ["without_what_no_grammar_holds"]

BEYOND = {
    *("uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems"),
    *("propertyNames", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties"),
    *("not", "if", "then", "else"),
    *("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"),
}
# looking around, word boundaries and references to groups
BEYOND_PATTERNS = re.compile(r"\(\?<?[=!]|\\[bBk1-9]")


def without_what_no_grammar_holds(schema: Any) -> Any:
    """A schema that allows at least the same, at every depth."""
    if isinstance(schema, list):
        return [without_what_no_grammar_holds(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in BEYOND or (key == "pattern" and isinstance(value, str) and BEYOND_PATTERNS.search(value)):
            continue
        if key in DATA:
            kept[key] = value
        elif key in {*NAMED, "patternProperties"} and isinstance(value, dict):
            kept[key] = {name: without_what_no_grammar_holds(item) for name, item in value.items()}
        else:
            name = "anyOf" if key == "oneOf" and "anyOf" not in schema else key
            kept[name] = without_what_no_grammar_holds(value)
    return kept
