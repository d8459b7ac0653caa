"""patternProperties whose patterns match no other names than `properties` lists.

llguidance subtracts the listed names from a pattern, and lets another property begin even if no name is left: the
answer would reach a dead end.
"""

import json
from functools import lru_cache
from typing import Any

from llguidance import LLMatcher, LLTokenizer

__all__ = ["without_exhausted_patterns"]

BYTES = LLTokenizer("byte")
MAX_PATTERNS = 16  # checked in one schema, a millisecond each, which other requests wait for
MAX_NAME_CHARS = 4096  # of all listed names together


def without_exhausted_patterns(schema: dict[str, Any]) -> dict[str, Any]:
    """An equivalent schema: the schema of such a pattern is moved to the properties that it matches."""
    listed, patterns = schema.get("properties"), schema.get("patternProperties")
    if not isinstance(listed, dict) or not isinstance(patterns, dict) or not listed or not patterns:
        return schema
    if len(patterns) > MAX_PATTERNS or sum(map(len, listed)) > MAX_NAME_CHARS:
        return schema
    if not all(_is_text(text) for text in (*listed, *patterns)):
        return schema
    names = tuple(listed)
    exhausted = [pattern for pattern in patterns if _is_exhausted(pattern, names)]
    if not exhausted:
        return schema
    properties = dict(listed)
    for pattern in exhausted:
        for name in names:
            if patterns[pattern] not in (True, {}, listed[name]) and _matches(pattern, name):
                properties[name] = {"allOf": [properties[name], patterns[pattern]]}
    rest = {pattern: value for pattern, value in patterns.items() if pattern not in exhausted}
    return {**schema, "properties": properties, "patternProperties": rest}


@lru_cache(4096)
def _is_exhausted(pattern: str, names: tuple[str, ...]) -> bool:
    """Whether the pattern matches only these names."""
    matcher = _matcher(
        {
            "type": "object",
            "properties": dict.fromkeys(names, True),
            "patternProperties": {pattern: True},
            "additionalProperties": False,
        }
    )
    known = ",".join(f"{_text(name)}:0" for name in names)
    return _takes(matcher, "{" + known) and not _takes(matcher, "{" + known + ',"')


@lru_cache(4096)
def _matches(pattern: str, name: str) -> bool:
    matcher = _matcher(
        {"type": "object", "patternProperties": {pattern: {"const": 1}}, "additionalProperties": {"const": 0}}
    )
    return _takes(matcher, "{" + _text(name) + ":1")


def _matcher(schema: dict[str, Any]) -> LLMatcher:
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_flexible": False})
    return LLMatcher(BYTES, grammar, log_level=0)


def _takes(matcher: LLMatcher, text: str) -> bool:
    data = list(text.encode())
    return not matcher.is_error() and matcher.validate_tokens(data) == len(data)


def _is_text(text: str) -> bool:
    """Whether a string has no lone surrogates, which JSON's escapes can write."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _text(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)
