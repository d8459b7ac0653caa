"""Unsupported keywords: the parts of a JSON schema that no grammar can enforce.

Tool schemas often come from third parties and have such keywords: with strict: false they are dropped, and the rest of
the schema is enforced.
"""

import re
from contextlib import suppress
from typing import Any

from serve_app.grammar.ecma_regex import PatternFault, look_aheads, to_rust_regex
from serve_app.grammar.expansion import MAX_EXPANSION, expansion
from serve_app.grammar.json_rules import MAX_COUNT, JsonRules
from serve_app.grammar.keywords import BEYOND, COUNTS, FORMATS
from serve_app.grammar.pattern_properties import without_exhausted_patterns
from serve_app.grammar.rule_faults import InvalidSchema, Unsatisfiable
from serve_app.grammar.schema_walk import Path, rewritten
from serve_app.grammar.well_formed import schema_mistake

__all__ = ["explained", "strict_hint", "normalized", "without_unsupported_keywords"]

# llguidance's message -> ours
MESSAGES = [
    (
        r"Unsatisfiable schema|nothing satisfies it|no text can follow",
        "no document satisfies it: {keyword} and what stands beside it exclude one another",
    ),
    (
        r"circular references",
        "no grammar can hold an answer to $ref beside other keywords that refers to itself; leave these out{hint}",
    ),
    (
        r"not disjoint",
        "no grammar can hold an answer to patternProperties of which two match one name; leave one out{hint}",
    ),
    (
        r"coerce_one_of",
        "no grammar can hold an answer to oneOf, unless its schemas are clearly apart; use anyOf{hint}",
    ),
]
INTERNAL = re.compile(r"%json|^at \d|\d\(\d+\)|[Rr]egex|NoExtension|schema|<|\n|JSON|Expected|Failed")
MAX_LOOKS = 5  # passes over a schema, each of which drops keywords that llguidance refuses after those before
# keywords whose subschemas apply to the same object
APPLYING = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "$ref", "$dynamicRef")
# keywords, with the values at which they have no effect
IDLE: dict[str, tuple[Any, ...]] = {
    "uniqueItems": (False,),
    "propertyNames": (True, {}, {"type": "string"}),
    "unevaluatedItems": (True, {}),
    "unevaluatedProperties": (True, {}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
}


def normalized(schema: Any) -> Any:
    """An equivalent schema in keywords that llguidance supports, as far as possible."""
    return rewritten(schema, _plain)


def without_unsupported_keywords(schema: Any) -> Any:
    """A schema without unsupported keywords, which allows at least the same documents."""
    if schema_mistake(schema):
        return schema  # refused later
    relaxed = rewritten(schema, lambda inner: _supported(_plain(inner)))
    for _ in range(MAX_LOOKS):
        if expansion(relaxed) > MAX_EXPANSION:
            break  # refused later
        rules = JsonRules(relaxed, {}, leaves_out=True)
        with suppress(Unsatisfiable, InvalidSchema, RecursionError):
            rules.write()
        if not rules.left_out:
            break
        for fault in rules.left_out:
            relaxed = _left_out(relaxed, fault.path, fault.keyword)
    return relaxed


def _left_out(schema: Any, path: Path, keyword: str) -> Any:
    """The schema without a keyword; without the whole subschema where it was merged from several."""
    if path and isinstance(schema, list):
        index = int(path[0])
        return [*schema[:index], _left_out(schema[index], path[1:], keyword), *schema[index + 1 :]]
    if not isinstance(schema, dict):
        return schema
    if path and path[0] in schema:
        return {**schema, path[0]: _left_out(schema[path[0]], path[1:], keyword)}
    if not path and keyword in schema:
        return {key: value for key, value in schema.items() if key != keyword}
    return {key: value for key, value in schema.items() if key in ("type", "$defs", "definitions")}


def explained(fault: str, keyword: str, field: str) -> str:
    """llguidance's error as a message for the client, with a remedy. `keyword`: the cause, "" if unknown."""
    for pattern, words in MESSAGES:
        if re.search(pattern, fault):
            return words.format(keyword=keyword or "what it asks for", hint=strict_hint(field))
    if not INTERNAL.search(fault):  # readable already
        return f"{keyword}: {fault}" if keyword else fault
    return f"no grammar can hold an answer to {keyword or 'all of it'}; leave it out{strict_hint(field)}"


def strict_hint(field: str) -> str:
    """The hint at `strict: false`, for fields that have `strict`."""
    return ", or set strict to false" if field.startswith(("response_format", "tools")) else ""


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Without keywords of no effect, and without unknown formats, which are annotations (7.2.1)."""
    kept = {key: value for key, value in schema.items() if value not in IDLE.get(key, ())}
    for key in sorted(COUNTS & kept.keys()):
        if isinstance(kept[key], float) and kept[key].is_integer():
            kept[key] = int(kept[key])
        if key.startswith("max") and isinstance(kept[key], int) and kept[key] > MAX_COUNT:
            del kept[key]  # no answer is that long
    if isinstance(kept.get("format"), str) and kept["format"] not in FORMATS:
        del kept["format"]
    if isinstance(kept.get("pattern"), str):
        kept["pattern"] = _plain_pattern(kept["pattern"])
    patterns = kept.get("patternProperties")
    if isinstance(patterns, dict):
        kept["patternProperties"] = {_plain_pattern(pattern): value for pattern, value in patterns.items()}
    if "unevaluatedProperties" in kept and not kept.keys() & {"additionalProperties", *APPLYING}:
        kept["additionalProperties"] = kept.pop("unevaluatedProperties")
    return without_exhausted_patterns(kept)


def _plain_pattern(pattern: str) -> str:
    try:
        return to_rust_regex(pattern)
    except PatternFault:
        return pattern


def _is_pattern(pattern: str) -> bool:
    try:
        if look_aheads(pattern) is None:
            to_rust_regex(pattern)
    except PatternFault as fault:
        return fault.is_invalid  # invalid ones are not dropped, but reported
    return True


def _supported(schema: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in BEYOND or (key == "pattern" and isinstance(value, str) and not _is_pattern(value)):
            continue
        name = "anyOf" if key == "oneOf" and "anyOf" not in schema else key
        kept[name] = value
    return kept
