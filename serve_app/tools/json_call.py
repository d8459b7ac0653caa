"""Tool calls in JSON: an incremental parser that streams a call's arguments verbatim."""

import json

__all__ = ["CallObject", "JsonValue"]

BLANKS = " \t\n\r"
NAME_KEYS = ("name", "tool_name")
ARGUMENT_KEYS = ("arguments", "parameters")


class JsonValue:
    """Finds the end of a JSON value. Its contents are not checked, and only strings and scalars are kept."""

    __slots__ = ("_depth", "_escaped", "_in_string", "is_container", "is_scalar", "text")

    def __init__(self, first: str) -> None:
        self.text = first  # of a string or a scalar, so far
        self.is_container = first in "{["
        self.is_scalar = first not in '{["'  # a number, true, false or null
        self._depth = int(self.is_container)
        self._in_string = first == '"'
        self._escaped = False

    def takes(self, char: str) -> bool:
        """False for a character behind a scalar, which is not part of the value."""
        return not self.is_scalar or char not in ",}]" + BLANKS

    def step(self, char: str) -> bool:
        """Whether the value ends with this character."""
        if not self.is_container:
            self.text += char
        if self._in_string:
            self._in_string = self._escaped or char != '"'
            self._escaped = char == "\\" and not self._escaped
        elif char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
        return not self.is_scalar and not self._in_string and self._depth == 0


class CallObject:
    """{"name": "f", "arguments": {...}}, the keys in any order, others ignored.

    "tool_name" and "parameters" mean the same.

    Arguments are returned verbatim as they come. If a model writes them as a string with JSON inside, the string's
    content is returned at its end; if it writes none, "{}".
    """

    __slots__ = ("_after_value", "_has_arguments", "_key", "_value", "broken", "done", "name")

    def __init__(self) -> None:
        """Starts behind the opening brace."""
        self.name: str | None = None
        self.done = False
        self.broken = False  # the text is no such object; `done` is set too
        self._key: str | None = None  # of the value that comes
        self._value: JsonValue | None = None
        self._after_value = False
        self._has_arguments = False

    def step(self, char: str) -> str:
        """The new part of the arguments."""
        value = self._value
        if value is not None and value.takes(char):
            streams = self._streams(value)
            if not value.step(char):
                return char if streams else ""
            return self._end_value(char if streams else "")
        piece = self._end_value("") if value is not None else ""
        if char in BLANKS:
            return piece
        if char == "}" and self._key is None:
            return piece + self._end_object()
        if self._after_value:
            self._after_value = False
            self.broken = char != ","
        elif self._key is None:
            self._begin_key(char)
        elif self._key.endswith(":"):
            self._value = JsonValue(char)
            if self._streams(self._value):
                self._has_arguments = True
                return piece + char
        else:
            self._key += ":"
            self.broken = char != ":"
        return piece

    def _begin_key(self, char: str) -> None:
        self.broken = char != '"'
        self._key = ""
        self._value = JsonValue(char)

    def _streams(self, value: JsonValue) -> bool:
        return self._key is not None and self._key[:-1] in ARGUMENT_KEYS and value.is_container

    def _end_value(self, last: str) -> str:
        """Handles a complete key or value. `last` is its last character, if it streams."""
        assert self._value is not None and self._key is not None
        text, is_key, key, streamed = self._value.text, self._key == "", self._key[:-1], self._streams(self._value)
        self._value = None
        if is_key:
            self._key = self._decoded(text)
            return ""
        self._key = None
        self._after_value = True
        if key in NAME_KEYS:
            self.name = self._decoded(text)
        elif key in ARGUMENT_KEYS and not streamed:
            self._has_arguments = True
            return _inner_json(text)
        return last

    def _end_object(self) -> str:
        self.done = True
        self.broken = self.broken or self.name is None
        return "" if self._has_arguments else "{}"

    def _decoded(self, text: str) -> str:
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        self.broken = self.broken or not isinstance(value, str) or not value
        return value if isinstance(value, str) else ""


def _inner_json(text: str) -> str:
    """Arguments that are no object: JSON inside a string, or none."""
    if text in ("null", '""'):
        return "{}"
    try:
        value = json.loads(text)
        return value if isinstance(value, str) and isinstance(json.loads(value), dict) else text
    except ValueError:
        return text
