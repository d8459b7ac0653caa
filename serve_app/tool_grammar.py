"""Holds an answer to calls that parse: a declared name, and arguments that satisfy the tool's schema.

    forced      the answer is calls
    with form   the answer is calls, or a document of the form that response_format asks for
    else        the answer is text; from the moment it opens a call, it must be one

A grammar in llguidance's Lark dialect is made from the format's `Writing`. Markers that are special tokens are written
as tokens, everything else as text.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from engine.errors import RequestError
from serve_app.constraint import WHITESPACE, Constraint, json_grammar
from serve_app.tool_formats import ToolFormat, Writing
from serve_app.tools import ToolUse
from serve_app.vocabulary import Vocabulary

__all__ = ["tool_constraint"]

TEXT = r"TEXT: /(.|\n)*/"


def tool_constraint(tools: ToolUse, format_: ToolFormat, vocabulary: Vocabulary, form: Constraint | None) -> Constraint:
    """Raises RequestError for a schema that is none, or a form that cannot stand beside calls."""
    names = [tool["function"]["name"] for tool in tools.shown]
    for name, schema in tools.schemas.items():
        json_grammar(schema, f"tools.{names.index(name)}.function.parameters")  # says what is wrong with it
    special = {vocabulary.text(token): token for token in vocabulary.special_ids}
    grammar = _Grammar(format_.writing, tools, special)
    if tools.forced is not None:
        lines = ["start: calls", *grammar.calls()]
    elif form is not None:
        if form.schema is None:
            raise RequestError(f"{form.field}: only a JSON form can stand beside tools", param=form.field)
        lines = grammar.calls_or(form, form.schema, is_bare=format_.begins_bare)
    elif format_.begins_bare:
        begins = re.escape(format_.writing.opens.partition("NAME")[0]).replace("/", r"\/")
        lines = ["start: calls | TEXT", rf"{TEXT} & ~/{begins}(.|\n)*/", *grammar.calls()]
    else:
        lines = grammar.calls_within_text(format_.opens)
    field = form.field if form is not None else "tools"
    return Constraint("\n".join(["%llguidance {}", *lines]), field, form.schema if form is not None else None)


class _Grammar:
    def __init__(self, writing: Writing, tools: ToolUse, special: Mapping[str, int]) -> None:
        self._writing = writing
        self._special = special
        self._several = tools.max_calls != 1
        in_json = '"NAME"' in writing.opens
        self._names = list(tools.schemas)
        names = [json.dumps(name, ensure_ascii=False)[1:-1] if in_json else name for name in self._names]
        self._opens = [writing.opens.replace("NAME", name) for name in names]
        self._schemas = list(tools.schemas.values())

    def calls(self) -> list[str]:
        writing = self._writing
        more = f"({self._text(writing.joint)} call)*" if self._several else ""
        return [
            f"calls: {self._text(writing.begins)} call {more} {self._text(writing.ends)}",
            *self._one_call("call", ""),
        ]

    def calls_or(self, form: Constraint, schema: dict[str, Any] | bool, *, is_bare: bool) -> list[str]:
        """Calls or a document. Where both begin with a brace they are one schema: a lexer cannot wait and see."""
        if not is_bare:
            return ["start: calls | form", f"form: %json {_compiled(schema)}", *self.calls()]
        if '"$ref"' in json.dumps([schema, self._schemas]):
            raise RequestError(f"{form.field}: with tools, this model takes no schema with $ref", param=form.field)
        key = "parameters" if '"parameters"' in self._writing.opens else "arguments"
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": name}, key: arguments},
                "required": ["name", key],
                "additionalProperties": False,
            }
            for name, arguments in zip(self._names, self._schemas, strict=True)
        ]
        return [f"start: %json {_compiled({'anyOf': [*calls, schema]})}"]

    def calls_within_text(self, markers: tuple[str, ...]) -> list[str]:
        """Text until a marker comes. One that is a special token cannot be text; another one ends the text."""
        head = self._writing.begins or self._opens[0]
        marker = next(marker for marker in markers if head.startswith(marker))
        if marker in self._special:
            return ["start: TEXT calls?", TEXT, *self.calls()]
        opened = f"opened[lazy]: TEXT {json.dumps(marker)}"
        if self._writing.begins:
            begins = self._text(self._writing.begins.removeprefix(marker))
            more = f"({self._text(self._writing.joint)} call)*" if self._several else ""
            rest = f"rest: {begins} call {more} {self._text(self._writing.ends)}"
            return ["start: opened rest | TEXT", opened, TEXT, rest, *self._one_call("call", "")]
        start = "start: (opened rest)* TEXT" if self._several else "start: opened rest | TEXT"
        return [start, opened, TEXT, *self._one_call("rest", marker)]

    def _one_call(self, rule: str, without: str) -> list[str]:
        """One call, whose first characters have been read."""
        lines = [f"{rule}: " + " | ".join(f"{rule}_{index}" for index in range(len(self._opens)))]
        closes = self._text(self._writing.closes)
        for index, (opens, schema) in enumerate(zip(self._opens, self._schemas, strict=True)):
            begins = self._text(opens.removeprefix(without))
            lines.append(f"{rule}_{index}: {begins} arguments_{index} {closes}")
            lines.append(f"arguments_{index}: %json {_compiled(schema)}")
        return lines

    def _text(self, text: str) -> str:
        """The text as Lark has it: strings, and tokens by their ids."""
        known = sorted((marker for marker in self._special if marker and marker in text), key=len, reverse=True)
        parts = re.split("(" + "|".join(map(re.escape, known)) + ")", text) if known else [text]
        return " ".join(
            f"<[{self._special[part]}]>" if part in self._special else json.dumps(part) for part in parts if part
        )


def _compiled(schema: dict[str, Any] | bool) -> str:
    options = {"x-guidance": {"whitespace_pattern": WHITESPACE}}
    return json.dumps({**schema, **options} if isinstance(schema, dict) else options)
