"""Argument values: converts arguments that models write one by one to JSON."""

import ast
import json
from typing import Any

from serve_app.grammar.exact_numbers import json_text
from serve_app.grammar.schema_check import schema_fault
from serve_app.text.json_text import read_number

__all__ = ["FAULTS", "ArgumentWriter", "is_plain_text", "is_text", "python_value", "tagged_value"]

WORDS = {"true": True, "false": False, "null": None}
FAULTS = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)


class ArgumentWriter:
    """Writes an object member by member: the joined pieces are one JSON text."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def member(self, name: str, value: Any) -> str:
        """The JSON of one member; "" for a repeated name."""
        if name in self._names:
            return ""
        written = f"{', ' if self._names else '{'}{json.dumps(name, ensure_ascii=False)}: {json_text(value)}"
        self._names.add(name)
        return written

    def end(self) -> str:
        return "}" if self._names else "{}"


def python_value(text: str) -> Any:
    """The value of a Python literal or of JSON; other text is a string."""
    text = text.strip()
    for read in (_read, ast.literal_eval):
        try:
            value = read(text)
            json_text(value)
            return value
        except FAULTS:
            continue
    return text


def tagged_value(text: str, schema: Any) -> Any:
    """A value between two tags: a bare string, or JSON for any other type."""
    if is_plain_text(schema):
        return text
    value = python_value(text)
    if is_text(schema):
        return value if isinstance(value, str) else text
    return value if isinstance(value, str) or schema_fault(value, schema) is None else text


def is_text(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "string"


def is_plain_text(schema: Any) -> bool:
    """Whether the schema is a string without constraints but its length."""
    return is_text(schema) and not schema.keys() & {"enum", "const", "pattern", "format", "anyOf", "oneOf", "allOf"}


def _read(text: str) -> Any:
    return json.loads(text, parse_float=read_number)
