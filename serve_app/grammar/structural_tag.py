"""Structural tags: documents between markers, within free text or in sequence, compiled from JSON to a grammar.

The old form of vLLM and SGLang (structures and triggers), and XGrammar's nested formats:

    const_string          value
    json_schema           json_schema
    regex                 pattern
    grammar               grammar, as in structured_outputs.grammar
    any_text              nothing; it goes on until the tag around it ends
    sequence, or          elements
    tag                   begin, content, end (one or several)
    triggered_tags        triggers, tags, at_least_one, stop_after_first: text in which a trigger opens a tag
    tags_with_separator   tags, separator, at_least_one, stop_after_first: tags alone
"""

import json
from typing import Any

import llguidance

from engine.errors import RequestError
from serve_app.grammar.json_grammar import json_grammar, json_rule
from serve_app.grammar.lark import TEXT, within_slashes
from serve_app.grammar.schema_upgrade import upgraded

__all__ = ["structural_tag_grammar"]

MAX_DEPTH = 32

Ends = tuple[str, ...]  # texts, one of which ends the enclosing format


def structural_tag_grammar(tag: dict[str, Any], field: str) -> str:
    """The grammar in llguidance's form. Raises RequestError with the path of the error."""
    writer = _Writer(field)
    if "format" in tag:
        start = writer.write(tag["format"], "format", ())
    else:
        start = writer.write(_from_old_form(tag, field), "structures", ())
    lines = ["%llguidance {}", f"start: {start}", TEXT, *writer.lines]
    if not writer.grammars:
        return "\n".join(lines)
    inner = [{"name": name, "lark_grammar": text} for name, text in writer.grammars.items()]
    return json.dumps({"grammars": [{"lark_grammar": "\n".join(lines)}, *inner]})


def _from_old_form(tag: dict[str, Any], field: str) -> dict[str, Any]:
    structures = tag.get("structures")
    if not isinstance(structures, list):
        raise RequestError(f"{field}: needs a format, or structures and triggers", param=field)
    tags = []
    for index, one in enumerate(structures):
        if not isinstance(one, dict) or "schema" not in one:
            at = f"{field}.structures.{index}"
            raise RequestError(f"{at}: needs begin, schema and end", param=at)
        content = {"type": "json_schema", "json_schema": one["schema"]}
        tags.append({"begin": one.get("begin"), "content": content, "end": one.get("end", "")})
    return {"type": "triggered_tags", "triggers": tag.get("triggers"), "tags": tags}


class _Writer:
    """Collects the rules of one grammar."""

    def __init__(self, field: str) -> None:
        self._field = field
        self.lines: list[str] = []
        self.grammars: dict[str, str] = {}  # by name

    def write(self, format_: Any, at: str, ends: Ends, depth: int = 0) -> str:
        """An expression of a format, followed by one of `ends` if there are any."""
        if depth > MAX_DEPTH:
            raise self._wrong(at, f"more than {MAX_DEPTH} formats in each other")
        kind = format_.get("type") if isinstance(format_, dict) else None
        match kind:
            case "const_string":
                return self._closed(_text(self._string(format_, at, "value")), ends)
            case "json_schema":
                schema = upgraded(format_.get("json_schema"))
                if not isinstance(schema, (dict, bool)) or schema is False:
                    raise self._wrong(f"{at}.json_schema", "a JSON schema")
                json_grammar(schema, f"{self._field}.{at}.json_schema")  # raises RequestError for an invalid schema
                return self._closed(self._rule(json_rule(schema)), ends)
            case "regex":
                return self._closed(self._regex(self._string(format_, at, "pattern")), ends)
            case "grammar":
                return self._closed(self._grammar(self._string(format_, at, "grammar"), f"{at}.grammar"), ends)
            case "any_text":
                return self._any_text(ends)
            case "sequence":
                *first, last = self._list(format_, at, "elements")
                for index, one in enumerate(first):
                    if isinstance(one, dict) and one.get("type") in ("any_text", "triggered_tags"):
                        place = f"{at}.elements.{index}"
                        raise self._wrong(place, "something that has an end of its own; free text may only come last")
                parts = [self.write(one, f"{at}.elements.{index}", (), depth + 1) for index, one in enumerate(first)]
                return " ".join([*parts, self.write(last, f"{at}.elements.{len(first)}", ends, depth + 1)])
            case "or":
                elements = self._list(format_, at, "elements")
                ways = [
                    self.write(one, f"{at}.elements.{index}", ends, depth + 1) for index, one in enumerate(elements)
                ]
                return f"({' | '.join(ways)})"
            case "tag":
                return self._closed(self._tag(format_, at, "", depth), ends)
            case "triggered_tags":
                return self._triggered(format_, at, ends, depth)
            case "tags_with_separator":
                return self._closed(self._separated(format_, at, depth), ends)
        raise self._wrong(
            f"{at}.type" if isinstance(format_, dict) else at,
            "const_string, json_schema, regex, grammar, any_text, sequence, or, tag, triggered_tags or "
            "tags_with_separator",
        )

    def _closed(self, expression: str, ends: Ends) -> str:
        return f"{expression} {_one_of(ends)}" if ends else expression

    def _any_text(self, ends: Ends) -> str:
        """Free text up to the first of `ends`."""
        return self._rule(f"TEXT {_one_of(ends)}", "[lazy]") if ends else "TEXT"

    def _tag(self, format_: Any, at: str, trigger: str, depth: int) -> str:
        """A tag behind its trigger."""
        if not isinstance(format_, dict):
            raise self._wrong(at, "a tag: begin, content and end")
        begin = self._string(format_, at, "begin")
        end = format_.get("end", "")
        ends = tuple(end) if isinstance(end, list) else (end,)
        if not all(isinstance(one, str) for one in ends):
            raise self._wrong(f"{at}.end", "a string, or a list of strings")
        ends = tuple(one for one in ends if one) if "" not in ends else ()
        content = self.write(format_.get("content"), f"{at}.content", ends, depth + 1)
        return f"{_text(begin.removeprefix(trigger))} {content}"

    def _triggered(self, format_: dict[str, Any], at: str, ends: Ends, depth: int) -> str:
        triggers, tags = self._list(format_, at, "triggers"), self._list(format_, at, "tags")
        if not all(isinstance(one, str) and one for one in triggers):
            raise self._wrong(f"{at}.triggers", "a list of strings that are not empty")
        whole, after = [], []
        for index, tag in enumerate(tags):
            place = f"{at}.tags.{index}"
            begin = self._string(tag, place, "begin")
            trigger = next((one for one in triggers if begin.startswith(one)), None)
            if trigger is None:
                raise self._wrong(f"{place}.begin", "a text that begins with one of the triggers")
            whole.append(self._tag(tag, place, "", depth))
            opened = self._rule(f"TEXT {_text(trigger)}", "[lazy]")
            after.append(f"{opened} {self._tag(tag, place, trigger, depth)}")
        first, later = self._rule(" | ".join(whole)), self._rule(" | ".join(after))
        rest = self._any_text(ends)
        if format_.get("stop_after_first"):
            once = self._closed(first if format_.get("at_least_one") else later, ends)
            return once if format_.get("at_least_one") else f"({once} | {rest})"
        return f"{first} {later}* {rest}" if format_.get("at_least_one") else f"{later}* {rest}"

    def _separated(self, format_: dict[str, Any], at: str, depth: int) -> str:
        tags = self._list(format_, at, "tags")
        ways = [self._tag(tag, f"{at}.tags.{index}", "", depth) for index, tag in enumerate(tags)]
        several = one = self._rule(" | ".join(ways))
        if not format_.get("stop_after_first"):
            several = f"{one} ({_text(self._string(format_, at, 'separator'))} {one})*"
        return several if format_.get("at_least_one") else f"({several})?"

    def _regex(self, text: str) -> str:
        name = f"REGEX_{len(self.lines)}"
        self.lines.append(f"{name}: /{within_slashes(text)}/")
        return name

    def _grammar(self, text: str, at: str) -> str:
        try:
            found = llguidance.grammar_from("grammar", text)
        except ValueError as error:
            raise self._wrong(at, f"a grammar: {error}") from None
        name = f"grammar_{len(self.grammars)}"
        self.grammars[name] = found
        return f"@{name}"

    def _rule(self, body: str, options: str = "") -> str:
        name = f"rule_{len(self.lines)}"
        self.lines.append(f"{name}{options}: {body}")
        return name

    def _string(self, format_: Any, at: str, key: str) -> str:
        value = format_.get(key) if isinstance(format_, dict) else None
        if not isinstance(value, str):
            raise self._wrong(f"{at}.{key}", "a string")
        return value

    def _list(self, format_: dict[str, Any], at: str, key: str) -> list[Any]:
        value = format_.get(key)
        if not isinstance(value, list) or not value:
            raise self._wrong(f"{at}.{key}", "a list that is not empty")
        return value

    def _wrong(self, at: str, needed: str) -> RequestError:
        place = f"{self._field}.{at.strip('.')}"
        return RequestError(f"{place}: must be {needed}", param=place)


def _text(text: str) -> str:
    return json.dumps(text) if text else ""


def _one_of(texts: Ends) -> str:
    return f"({' | '.join(map(_text, texts))})"
