"""Schema validation: checks the type of each keyword's value in a JSON schema."""

import json
from collections.abc import Callable
from typing import Any

from serve_app.grammar.exact_numbers import exact, is_number
from serve_app.grammar.schema_walk import ONE, SEVERAL, Path, schemas_in

__all__ = ["schema_mistake"]

TYPE_NAMES = ["array", "boolean", "integer", "null", "number", "object", "string"]
MAX_SHOWN = 80  # characters of a value


def schema_mistake(schema: Any) -> tuple[Path, str] | None:
    """The path of the first error, its keyword last, and the message."""
    for path, one in schemas_in(schema):
        if isinstance(one, bool):
            continue
        if not isinstance(one, dict):
            return path, f"must be a schema, which is an object, true or false, got {_shown(one)}"
        for keyword, value in one.items():
            if keyword == "type" and (wrong := _wrong_type(value)):
                return (*path, keyword), wrong
            if keyword in CHECKS and not CHECKS[keyword][0](value):
                return (*path, keyword), f"must be {CHECKS[keyword][1]}, got {_shown(value)}"
    return None


def _wrong_type(value: Any) -> str | None:
    names = value if isinstance(value, list) else [value]
    if not names:
        return "must name a type, got []"
    unknown = [name for name in names if not isinstance(name, str) or name not in TYPE_NAMES]
    return f"{_shown(unknown[0], repr)} is not one of {TYPE_NAMES}" if unknown else None


def _shown(value: Any, write: Callable[[Any], str] = lambda value: json.dumps(value, ensure_ascii=False)) -> str:
    """The beginning of a value, for a message."""
    if isinstance(value, dict | list) and len(value) > MAX_SHOWN:
        return "an object" if isinstance(value, dict) else "a list"
    text = write(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _is_count(value: Any) -> bool:
    return is_number(value) and value >= 0 and exact(value).denominator == 1


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_filled(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


Check = tuple[Callable[[Any], bool], str]
COUNT: Check = _is_count, "an integer that is not negative"
NUMBER: Check = is_number, "a number"
TEXT: Check = _is_text, "a string"
CHECKS: dict[str, Check] = {
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), COUNT),
    **dict.fromkeys(("minContains", "maxContains"), COUNT),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), NUMBER),
    **dict.fromkeys(("pattern", "format", "$ref", "$dynamicRef", "$anchor", "$id"), TEXT),
    **dict.fromkeys(SEVERAL - {"dependencies"}, (lambda value: isinstance(value, dict), "an object of schemas")),
    **dict.fromkeys(("anyOf", "allOf", "oneOf", "prefixItems"), (_is_filled, "a list of schemas that is not empty")),
    **dict.fromkeys(ONE, (lambda value: isinstance(value, dict | bool), "a schema: an object, true or false")),
    "enum": (_is_filled, "a list of values that is not empty"),
    "required": (_are_texts, "a list of strings"),
    "multipleOf": (lambda value: is_number(value) and value > 0, "a number above 0"),
    "uniqueItems": (lambda value: isinstance(value, bool), "true or false"),
    "dependentRequired": (
        lambda value: isinstance(value, dict) and all(map(_are_texts, value.values())),
        "an object of lists of strings",
    ),
}
