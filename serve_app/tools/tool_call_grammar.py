"""Tool-call grammar: constrains an answer to calls that parse, of declared tools, with arguments of their schemas.

    forced        the answer is calls
    with output   the answer is calls, or a text of the format that response_format or structured_outputs asks for
    else          the answer is text; once it opens a call, the call is constrained

A grammar in llguidance's Lark dialect (lark) is made from the format's `CallSyntax`. field_grammar has the rules of
arguments that are written one by one, harmony_grammar those of channels.
"""

import json
from typing import Any

from engine.errors import RequestError
from serve_app.grammar.constraint import Constraint, regex_of
from serve_app.grammar.json_grammar import json_grammar, json_rule
from serve_app.grammar.lark import TEXT, Markers, pattern
from serve_app.text.vocabulary import Vocabulary
from serve_app.tools.field_grammar import field_rules
from serve_app.tools.formats import HARMONY
from serve_app.tools.harmony_grammar import harmony_constraint
from serve_app.tools.tool_call_format import ToolCallFormat
from serve_app.tools.tool_use import ToolUse, sources_of

__all__ = ["tool_constraint"]


def tool_constraint(
    tools: ToolUse, format_: ToolCallFormat, vocabulary: Vocabulary, output: Constraint | None
) -> Constraint:
    """Raises RequestError for an invalid schema, or an output format that excludes calls."""
    sources = sources_of(tools)
    for (field, schema), name in zip(sources, tools.schemas, strict=True):
        try:
            json_grammar(schema, field)  # raises RequestError for an invalid schema
        except RequestError as fault:
            raise RequestError(f"{fault} (in the tool {name!r})", param=field) from None
    if format_ is HARMONY:
        return harmony_constraint(tools, vocabulary, output)
    grammar = _Grammar(format_, tools, Markers(vocabulary))
    if tools.forced is not None:
        lines = ["start: calls", *grammar.calls()]
    elif output is not None:
        lines = grammar.calls_or(output, output.schema) if output.schema is not None else grammar.calls_or_text(output)
    elif format_.bare:
        lines = ["start: calls | TEXT", rf"{TEXT} & ~/{grammar.bare_beginning()}(.|\n)*/", *grammar.calls()]
    else:
        lines = grammar.calls_within_text(format_.opens)
    field = output.field if output is not None else "tools"
    text = "\n".join(["%llguidance {}", *lines])
    if output is None:
        return Constraint(text, field, sources=sources)
    return Constraint(text, field, output.schema, output.fits, (*output.sources, *sources))


class _Grammar:
    def __init__(self, format_: ToolCallFormat, tools: ToolUse, markers: Markers) -> None:
        self._format = format_
        self._syntax = syntax = format_.syntax
        self._markers = markers
        self._text = markers.text
        self._several = tools.max_calls != 1
        in_json = ': "NAME"' in syntax.opens
        self._names = list(tools.schemas)
        names = [json.dumps(name, ensure_ascii=False)[1:-1] if in_json else name for name in self._names]
        self._opens = [syntax.opens.replace("NAME", name) for name in names]
        self._schemas = list(tools.schemas.values())
        shown = [tool["function"]["name"] for tool in tools.definitions]
        self._params = [f"tools.{shown.index(name)}.function.parameters" for name in self._names]

    def bare_beginning(self) -> str:
        """A pattern of texts that begin like a bare call."""
        if not self._format.lists:
            return pattern((self._syntax.begins + self._syntax.opens).partition("NAME")[0])
        names = "|".join([r"[A-Za-z_][A-Za-z0-9_.]*", *map(pattern, self._names)])
        return rf"[ \t\r\n]*{pattern(self._format.bare)}[ \t\r\n\[,]*({names})[ \t\r\n]*\("

    def calls(self) -> list[str]:
        syntax = self._syntax
        more = f"({self._text(syntax.joint)} call)*" if self._several else ""
        if not self._format.bare:
            start = f"calls: {self._text(syntax.begins)} call {more} {self._text(syntax.ends)}"
            return [start, *self._one_call("call", "")]
        # one string up to the arguments: it competes with free text, and a lexer has no lookahead
        closes = self._text(syntax.closes)
        firsts = [
            f"({self._text(syntax.begins + opens)} arguments_{index} {closes})"
            for index, opens in enumerate(self._opens)
        ]
        start = f"calls: ({' | '.join(firsts)}) {more} {self._text(syntax.ends)}"
        return [start, *self._one_call("call", "")]

    def calls_or(self, output: Constraint, schema: dict[str, Any] | bool) -> list[str]:
        """Calls or a document. If both begin with a brace they are one schema: a lexer has no lookahead."""
        if self._format.bare != "{":
            return ["start: calls | form", f"form: {json_rule(schema)}", *self.calls()]
        if '"$ref"' in json.dumps([schema, self._schemas]):
            raise RequestError(f"{output.field}: with tools, this model takes no schema with $ref", param=output.field)
        key = "parameters" if '"parameters"' in self._syntax.opens else "arguments"
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": name}, key: arguments},
                "required": ["name", key],
                "additionalProperties": False,
            }
            for name, arguments in zip(self._names, self._schemas, strict=True)
        ]
        return [f"start: {json_rule({'anyOf': [*calls, schema]})}"]

    def calls_or_text(self, output: Constraint) -> list[str]:
        """Calls, or a text of a regular expression or a grammar. A text that begins like a call is none of a regex."""
        regex, calls = regex_of(output.grammar), self.calls()
        if regex is not None:
            begins = self.bare_beginning() if self._format.bare else "|".join(map(pattern, self._format.opens))
            return ["start: calls | FORM", rf"FORM: /{regex}/ & ~/({begins})(.|\n)*/", *calls]
        if self._format.bare:
            wanted = "a JSON form, a regex or a choice"
            raise RequestError(f"{output.field}: beside tools, this model takes only {wanted}", param=output.field)
        return ["start: calls | form", f"form: %lark {{\n{output.grammar}\n}}", *calls]

    def calls_within_text(self, markers: tuple[str, ...]) -> list[str]:
        """Text up to a marker: a special token is never part of the text, any other marker ends it."""
        head = self._syntax.begins or self._opens[0]
        marker = next(marker for marker in markers if head.startswith(marker))
        if marker in self._markers.special:
            return ["start: TEXT calls?", TEXT, *self.calls()]
        opened = f"opened[lazy]: TEXT {json.dumps(marker)}"
        if self._syntax.begins:
            begins = self._text(self._syntax.begins.removeprefix(marker))
            more = f"({self._text(self._syntax.joint)} call)*" if self._several else ""
            rest = f"rest: {begins} call {more} {self._text(self._syntax.ends)}"
            return ["start: opened rest | TEXT", opened, TEXT, rest, *self._one_call("call", "")]
        start = "start: (opened rest)* TEXT" if self._several else "start: opened rest | TEXT"
        return [start, opened, TEXT, *self._one_call("rest", marker)]

    def _one_call(self, rule: str, without: str) -> list[str]:
        """One call behind its first characters."""
        lines = [f"{rule}: " + " | ".join(f"{rule}_{index}" for index in range(len(self._opens)))]
        closes = self._text(self._syntax.closes)
        for index, (opens, schema) in enumerate(zip(self._opens, self._schemas, strict=True)):
            begins = self._text(opens.removeprefix(without))
            lines.append(f"{rule}_{index}: {begins} arguments_{index} {closes}")
            if self._format.arguments == "json":
                lines.append(f"arguments_{index}: {json_rule(schema)}")
            else:
                lines += field_rules(f"arguments_{index}", self._format, self._markers, schema, self._params[index])
        return lines
