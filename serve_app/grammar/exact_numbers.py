"""Exact JSON numbers, with all their written digits.

A double is exact for up to 15 written digits; `Digits` keeps longer ones.
"""

import json
from fractions import Fraction
from typing import Any

from serve_app.text.json_text import Digits

__all__ = ["exact", "is_number", "json_text", "number_text", "same"]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def exact(value: float) -> Fraction:
    """The number as written in the JSON text. parse_json bounds its digits."""
    return Fraction(value) if isinstance(value, int) else Fraction(number_text(value))


def number_text(value: float) -> str:
    """The number's JSON text."""
    return value.text if isinstance(value, Digits) else repr(value)


def json_text(value: Any) -> str:
    """A value as JSON, every number with its digits. Raises ValueError or TypeError for values that JSON has not."""
    if isinstance(value, dict):
        members = (f"{json_text(str(name))}: {json_text(one)}" for name, one in value.items())
        return f"{{{', '.join(members)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(json_text, value))}]"
    return value.text if isinstance(value, Digits) else json.dumps(value, ensure_ascii=False, allow_nan=False)


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal in JSON Schema's sense."""
    if is_number(one) and is_number(other):
        return exact(one) == exact(other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)
