"""Unsupported keywords: what of a JSON schema a grammar cannot hold a model to.

Schemas come from other people's servers, and say more than a grammar can: where a client does not insist, a model is
held to what it can be, as it would be by a server that holds it to nothing.
"""

import re
from contextlib import suppress
from typing import Any

from serve_app.grammar.ecma_regex import PatternFault, in_rusts_words, look_aheads
from serve_app.grammar.expansion import MAX_EXPANSION, expansion
from serve_app.grammar.json_rules import MAX_COUNT, JsonRules
from serve_app.grammar.keywords import BEYOND, COUNTS, FORMATS
from serve_app.grammar.pattern_properties import without_exhausted_patterns
from serve_app.grammar.rule_faults import Mistake, Nothing
from serve_app.grammar.schema_walk import Path, rewritten
from serve_app.grammar.well_formed import schema_mistake

__all__ = ["in_clients_words", "or_else", "said_plainly", "without_unsupported_keywords"]

# what llguidance says, and what that means to who wrote the schema
SAID = [
    (
        r"Unsatisfiable schema|nothing satisfies it|no text can follow",
        "no document satisfies it: {keyword} and what stands beside it exclude one another",
    ),
    (
        r"circular references",
        "no grammar can hold an answer to $ref beside other keywords that refers to itself; leave these out{or_else}",
    ),
    (
        r"not disjoint",
        "no grammar can hold an answer to patternProperties of which two match one name; leave one out{or_else}",
    ),
    (
        r"coerce_one_of",
        "no grammar can hold an answer to oneOf, unless its schemas are clearly apart; use anyOf{or_else}",
    ),
]
INTERNAL = re.compile(r"%json|^at \d|\d\(\d+\)|[Rr]egex|NoExtension|schema|<|\n|JSON|Expected|Failed")
MAX_LOOKS = 5  # at a schema, each for what cannot be held where the one before has left something out
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


def without_unsupported_keywords(schema: Any) -> Any:
    """A schema that allows at least the same, at every depth."""
    if schema_mistake(schema):
        return schema  # it will be refused
    relaxed = rewritten(schema, lambda inner: _holdable(_plain(inner)))
    for _ in range(MAX_LOOKS):
        if expansion(relaxed) > MAX_EXPANSION:
            break  # it will be refused
        rules = JsonRules(relaxed, {}, leaves_out=True)
        with suppress(Nothing, Mistake, RecursionError):
            rules.write()
        if not rules.left_out:
            break
        for fault in rules.left_out:
            relaxed = _left_out(relaxed, fault.path, fault.keyword)
    return relaxed


def _left_out(schema: Any, path: Path, keyword: str) -> Any:
    """The schema without a keyword; without all that is said where several schemas made it up."""
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


def in_clients_words(fault: str, keyword: str, field: str) -> str:
    """What llguidance says of a schema, with what to do about it. `keyword`: the one that it was asked for, or none."""
    for pattern, words in SAID:
        if re.search(pattern, fault):
            return words.format(keyword=keyword or "what it asks for", or_else=or_else(field))
    if not INTERNAL.search(fault):  # it is in words already
        return f"{keyword}: {fault}" if keyword else fault
    return f"no grammar can hold an answer to {keyword or 'all of it'}; leave it out{or_else(field)}"


def or_else(field: str) -> str:
    """What may be done besides, where the field is one of those that have a `strict`."""
    return ", or set strict to false" if field.startswith(("response_format", "tools")) else ""


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Without keywords that say nothing, and without formats that nobody knows: those are annotations (7.2.1)."""
    kept = {key: value for key, value in schema.items() if value not in IDLE.get(key, ())}
    for key in sorted(COUNTS & kept.keys()):
        if isinstance(kept[key], float) and kept[key].is_integer():
            kept[key] = int(kept[key])
        if key.startswith("max") and isinstance(kept[key], int) and kept[key] > MAX_COUNT:
            del kept[key]  # no answer is so long
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
        return in_rusts_words(pattern)
    except PatternFault:
        return pattern


def _is_pattern(pattern: str) -> bool:
    try:
        if look_aheads(pattern) is None:
            in_rusts_words(pattern)
    except PatternFault as fault:
        return fault.is_mistake  # which is not left out, but told
    return True


def _holdable(schema: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in BEYOND or (key == "pattern" and isinstance(value, str) and not _is_pattern(value)):
            continue
        name = "anyOf" if key == "oneOf" and "anyOf" not in schema else key
        kept[name] = value
    return kept
