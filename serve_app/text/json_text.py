"""Bounded JSON parsing: refuses texts that would hold the GIL for long in one call.

Hundreds of thousands of values take some 0.1 s in which no other thread runs, and deep nesting raises RecursionError
in any recursive walk.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from typing import Any

import msgspec

__all__ = ["MAX_CONTAINERS", "MAX_DEPTH", "MAX_VALUES", "Digits", "LimitError", "parse_json", "read_number"]

MAX_VALUES = 250_000  # values in one text
MAX_CONTAINERS = 40_000  # arrays and objects among them
MAX_DEPTH = 64  # arrays and objects inside each other
MAX_DIGITS = 1_000  # of a number


class LimitError(ValueError):
    """The text has more values, nesting or digits than the limits allow."""


@dataclass(init=False, eq=False, repr=False)  # msgspec encodes dataclasses
class Digits(float):
    """A number with more digits than a double: `text` is its written form."""

    text: str

    def __new__(cls, text: str) -> "Digits":
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __reduce__(self) -> tuple[type["Digits"], tuple[str]]:
        return Digits, (self.text,)


def parse_json(data: bytes | str) -> Any:
    """Parses JSON with all digits of numbers: integers are ints, numbers that are no exact doubles are Digits.

    Raises ValueError, whose message continues a sentence that names the text; msgspec's for invalid JSON.
    """
    text = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
    num_containers = text.count(b"[") + text.count(b"{")
    if num_containers > MAX_CONTAINERS or num_containers + text.count(b",") > MAX_VALUES:
        _count_values(text)
    try:
        value = DECODER.decode(text)
    except msgspec.ValidationError as error:  # of read_number, with the path
        raise LimitError(str(error).partition(" - at ")[0]) from None
    except RecursionError:
        raise _too_deep() from None
    _check_depth(value)
    return value


def read_number(text: str) -> float:
    """Parses a JSON number that is no integer. Raises LimitError."""
    if len(text) <= 16 and "e" not in text and "E" not in text:
        return float(text)  # exact for 15 digits
    if len(text) > MAX_DIGITS:
        raise LimitError(f"holds a number of more than {MAX_DIGITS} digits")
    number = float(text)
    if not isfinite(number) or (number == 0 and any(digit in "123456789" for digit in text.lower().split("e")[0])):
        raise LimitError(f"holds a number that is too large or too small: {text[:40]}")
    return number if Decimal(repr(number)) == Decimal(text) else Digits(text)


DECODER = msgspec.json.Decoder(float_hook=read_number)


def _count_values(data: bytes) -> None:
    """Counts values outside strings, in pieces so that other threads run in between."""
    num_commas = num_containers = 0
    for token in re.finditer(rb'"(?:[^"\\]++|\\.)*+"?|[,\[{]', data, re.DOTALL):
        first = token[0][0]
        num_commas += first == 0x2C
        num_containers += first in (0x5B, 0x7B)
        if num_containers > MAX_CONTAINERS:
            raise LimitError(f"holds more than {MAX_CONTAINERS} arrays and objects")
        if num_commas + num_containers > MAX_VALUES:
            raise LimitError(f"holds more than {MAX_VALUES} values")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> LimitError:
    return LimitError(f"is nested more than {MAX_DEPTH} deep")
