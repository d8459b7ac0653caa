"""Values in JSON's syntax, but with keys without quotes and strings between markers, as Gemma 4 writes them."""

import json
from typing import Any

from serve_app.grammar.exact_numbers import json_text
from serve_app.text.json_text import read_number
from serve_app.tools.argument_values import FAULTS, is_text

__all__ = ["quoted_value"]

DECODER = json.JSONDecoder(parse_float=read_number)


def quoted_value(text: str, quote: str, schema: Any) -> Any:
    """The value of `text`; what is none is a string, and so is any scalar where the schema says so."""
    text = text.strip()
    try:
        value, end = _Reader(text, quote).value(0)
        json_text(value)
    except FAULTS:
        return text
    if text[end:].strip() or (is_text(schema) and not isinstance(value, str)):
        return text
    return value


class _Reader:
    """Methods take a position in the text, and return what they have read with the position behind it."""

    def __init__(self, text: str, quote: str) -> None:
        self._text, self._quote = text, quote

    def value(self, at: int) -> tuple[Any, int]:
        at = self._skip(at)
        if self._text.startswith(self._quote, at):
            start = at + len(self._quote)
            end = self._text.index(self._quote, start)
            return self._text[start:end], end + len(self._quote)
        if self._text.startswith("[", at):
            return self._items(at + 1)
        if self._text.startswith("{", at):
            return self._members(at + 1)
        if self._text.startswith('"', at):
            return DECODER.raw_decode(self._text, at)
        end = self._end_of_scalar(at)
        return DECODER.decode(self._text[at:end]), end

    def _items(self, at: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        while not self._text.startswith("]", at := self._skip(at)):
            item, at = self.value(at)
            items.append(item)
            at = self._comma(at, "]")
        return items, at + 1

    def _members(self, at: int) -> tuple[dict[str, Any], int]:
        members: dict[str, Any] = {}
        while not self._text.startswith("}", at := self._skip(at)):
            name, at = self._name(at)
            members[name], at = self.value(at)
            at = self._comma(at, "}")
        return members, at + 1

    def _name(self, at: int) -> tuple[str, int]:
        """Of a member, with the position behind its colon."""
        if self._text.startswith(('"', self._quote), at):
            name, at = self.value(at)
            return name, self._text.index(":", at) + 1
        end = self._text.index(":", at)
        return self._text[at:end].strip(), end + 1

    def _comma(self, at: int, closes: str) -> int:
        """The position of what follows a value: after its comma, or at the closing bracket."""
        at = self._skip(at)
        if self._text.startswith(",", at):
            return at + 1
        if not self._text.startswith(closes, at):
            raise ValueError(f"no comma at {at}")
        return at

    def _skip(self, at: int) -> int:
        while at < len(self._text) and self._text[at].isspace():
            at += 1
        return at

    def _end_of_scalar(self, at: int) -> int:
        while at < len(self._text) and self._text[at] not in ",]}":
            at += 1
        return at
