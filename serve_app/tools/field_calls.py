"""Parses arguments written one by one, and returns each as JSON once it is complete."""

from typing import Any, Protocol

from serve_app.text.markers import could_begin, split_at_marker
from serve_app.tools.argument_values import ArgumentWriter, python_value, tagged_value
from serve_app.tools.quoted_values import quoted_value
from serve_app.tools.tool_call_format import QuotedFields, TaggedFields

__all__ = ["FieldReader", "PythonFields", "QuotedReader", "TaggedReader"]

CLOSING = {"(": ")", "[": "]", "{": "}"}


class FieldReader(Protocol):
    def push(self, text: str) -> tuple[str, str | None]:
        """The new part of the JSON, and, once the call has ended, the text behind it."""
        ...


class PythonFields:
    """city="Paris", days=[1, 2])"""

    def __init__(self) -> None:
        self._writer = ArgumentWriter()
        self._name = ""
        self._value: str | None = None  # so far; None: in the name
        self._open: list[str] = []  # open brackets
        self._quote = ""
        self._escaped = False

    def push(self, text: str) -> tuple[str, str | None]:
        pieces = []
        for position, char in enumerate(text):
            if not self._quote and not self._open and char in ",)":
                pieces.append(self._member())
                if char == ")":
                    return "".join([*pieces, self._writer.end()]), text[position + 1 :]
            elif self._value is None:
                if char == "=":
                    self._value = ""
                else:
                    self._name += char
            else:
                self._value += char
                self._follow(char)
        return "".join(pieces), None

    def _member(self) -> str:
        name, value = self._name.strip(), self._value
        self._name, self._value = "", None
        return self._writer.member(name, python_value(value)) if name and value is not None else ""

    def _follow(self, char: str) -> None:
        if self._quote:
            if char == self._quote and not self._escaped:
                self._quote = ""
            self._escaped = char == "\\" and not self._escaped
        elif char in "\"'":
            self._quote = char
        elif char in CLOSING:
            self._open.append(CLOSING[char])
        elif self._open and char == self._open[-1]:
            self._open.pop()


class TaggedReader:
    """<parameter=city>Paris</parameter>, each value typed by its schema."""

    def __init__(self, form: TaggedFields, schema: Any) -> None:
        self._form = form
        self._schemas = _schemas_of(schema)
        self._writer = ArgumentWriter()
        self._held = ""
        self._name: str | None = None  # of the argument whose value comes
        self._in_name = False
        self._in_value = False
        self._is_text = False  # the tag says that the value is a bare string

    def push(self, text: str) -> tuple[str, str | None]:
        self._held += text
        pieces: list[str] = []
        while True:
            if self._in_name:
                is_on = self._read_name()
            elif self._in_value:
                is_on = self._read_value(pieces)
            else:
                rest = self._between()
                if rest is not None:
                    return "".join([*pieces, self._writer.end()]), rest
                is_on = self._in_name or self._in_value
            if not is_on:
                return "".join(pieces), None

    def _between(self) -> str | None:
        """The text behind the call, if it ends here."""
        form, held = self._form, self._held.lstrip()
        opens = form.key if self._name is None else form.value
        if not held or could_begin(held, (opens, form.ends)):
            return None
        if held.startswith(opens):
            self._held = held[len(opens) :]
            self._in_name, self._in_value = self._name is None, self._name is not None
            return None
        return held.removeprefix(form.ends)

    def _read_name(self) -> bool:
        form = self._form
        name, marker, rest = split_at_marker(self._held, [form.named, *filter(None, [form.text_named])])
        if marker is None:
            return False
        self._is_text = marker == form.text_named
        self._name, self._held, self._in_name = name.strip(), rest, False
        self._in_value = not self._form.value
        return True

    def _read_value(self, pieces: list[str]) -> bool:
        text, marker, rest = split_at_marker(self._held, [self._form.closes])
        if marker is None:
            return False
        assert self._name is not None
        value = text.removeprefix("\n").removesuffix("\n") if self._form.pads else text
        read = value if self._is_text else tagged_value(value, self._schemas.get(self._name, True))
        pieces.append(self._writer.member(self._name, read))
        self._name, self._held, self._in_value = None, rest, False
        return True


class QuotedReader:
    """city:<|"|>Paris<|"|>,days:[1,2]}"""

    def __init__(self, form: QuotedFields, schema: Any) -> None:
        self._quote, self._schemas = form.quote, _schemas_of(schema)
        self._writer = ArgumentWriter()
        self._held = ""  # may begin a quote
        self._name = ""
        self._value: str | None = None  # so far; None: in the name
        self._depth = 0  # open brackets
        self._string = ""  # what ends the open string; "": none is open
        self._escaped = False

    def push(self, text: str) -> tuple[str, str | None]:
        text, at, pieces = self._held + text, 0, []
        while at < len(text):
            if self._string != '"' and text.startswith(self._quote, at):
                self._string = "" if self._string else self._quote
                self._take(self._quote)
                at += len(self._quote)
                continue
            if self._string != '"' and self._quote.startswith(text[at : at + len(self._quote)]):
                break
            char = text[at]
            at += 1
            if not self._string and not self._depth and char in ",}":
                pieces.append(self._member())
                if char == "}":
                    return "".join([*pieces, self._writer.end()]), text[at:]
            elif not self._string and self._value is None and char == ":":
                self._value = ""
            else:
                self._follow(char)
                self._take(char)
        self._held = text[at:]
        return "".join(pieces), None

    def _take(self, text: str) -> None:
        if self._value is None:
            self._name += text
        else:
            self._value += text

    def _follow(self, char: str) -> None:
        if self._string == '"':
            if char == '"' and not self._escaped:
                self._string = ""
            self._escaped = char == "\\" and not self._escaped
        elif self._string:
            return
        elif char == '"':
            self._string = '"'
        elif char in "[{":
            self._depth += 1
        elif char in "]}":
            self._depth -= 1

    def _member(self) -> str:
        name, value = self._name.strip().removeprefix(self._quote).removesuffix(self._quote).strip('"'), self._value
        self._name, self._value = "", None
        if not name or value is None:
            return ""
        return self._writer.member(name, quoted_value(value, self._quote, self._schemas.get(name, True)))


def _schemas_of(schema: Any) -> dict[str, Any]:
    """Of each argument."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return properties if isinstance(properties, dict) else {}
