"""Grammar of arguments that are written one by one: enforces their tool's schema.

Each argument satisfies its own schema; they come in the order of declaration, required ones always. Keywords of the
object as a whole are unsupported, and refused.
"""

import json
from typing import Any

from engine.errors import RequestError
from serve_app.grammar.json_grammar import json_rule
from serve_app.grammar.lark import Markers, pattern
from serve_app.tools.argument_values import is_plain_text, is_text
from serve_app.tools.tool_call_format import QuotedFields, TaggedFields, ToolCallFormat

__all__ = ["field_rules"]

# keywords of the object as a whole that are supported, or that cannot be violated since no other arguments are written
HELD = {"type", "properties", "required", "additionalProperties", "patternProperties", "maxProperties"}
NOTES = {"title", "description", "default", "examples", "strict", "$defs", "definitions", "$schema", "$id", "$comment"}
WHOLE = {"maxProperties"}


def field_rules(rule: str, format_: ToolCallFormat, markers: Markers, schema: dict[str, Any], param: str) -> list[str]:
    """Lark rules; `rule` is all arguments of one call. Raises RequestError for an unsupported schema."""
    _check(schema, format_, param)
    properties, required = schema.get("properties", {}), schema.get("required", [])
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    additional = schema.get("additionalProperties", True)
    fields = [*properties.items(), *((name, additional) for name in required if name not in properties)]
    lines = [f"{rule}: {rule}_first_0"]
    joint = markers.text(format_.syntax.field_joint)
    for place, (name, value) in enumerate(fields):
        field = f"{rule}_field_{place}"
        for state, before in (("first", ""), ("rest", joint)):
            skip = "" if name in required else f" | {rule}_{state}_{place + 1}"
            lines.append(f"{rule}_{state}_{place}: {before} {field} {rule}_rest_{place + 1}{skip}")
        known = {**value, **shared} if isinstance(value, dict) else value
        lines += _field(field, format_, markers, name, known)
    end = len(fields)
    return [*lines, f'{rule}_first_{end}: ""', f'{rule}_rest_{end}: ""']


def _field(rule: str, format_: ToolCallFormat, markers: Markers, name: str, schema: Any) -> list[str]:
    syntax = format_.syntax
    opens, text_opens = (
        markers.text(one.replace("KEY", name)) for one in (syntax.field_opens, syntax.text_opens or syntax.field_opens)
    )
    closes = markers.text(syntax.field_closes)
    fields = format_.arguments
    quote = markers.text(fields.quote) if isinstance(fields, QuotedFields) else ""
    if isinstance(fields, TaggedFields | QuotedFields) and is_plain_text(schema):
        ends = fields.closes if isinstance(fields, TaggedFields) else fields.quote
        closing = syntax.field_closes if isinstance(fields, TaggedFields) else fields.quote
        return [
            f"{rule}: {text_opens} {quote} {rule}_text",
            *_plain_text(f"{rule}_text", ends, markers, schema, closing),
        ]
    if isinstance(fields, TaggedFields | QuotedFields) and is_text(schema) and "enum" in schema:
        words = [word for word in schema["enum"] if isinstance(word, str)]
        if words and "const" not in schema:
            spelled = " | ".join(map(json.dumps, words))
            return [f"{rule}: {text_opens} {quote} {rule}_word {quote} {closes}", f"{rule}_word: {spelled}"]
    if format_.arguments == "python" and isinstance(schema, dict) and schema == {"type": "boolean"}:
        return [f'{rule}: {opens} ("True" | "False") {closes}']
    return [f"{rule}: {opens} {rule}_value {closes}", f"{rule}_value: {json_rule(schema)}"]


def _plain_text(rule: str, ends: str, markers: Markers, schema: dict[str, Any], closes: str) -> list[str]:
    """Any text up to `closes`, without the marker `ends`, which may be a part of that."""
    low, high = schema.get("minLength", 0), schema.get("maxLength", "")
    text = rf"/(.|\n){{{low},{high}}}/ & ~/(.|\n)*{pattern(ends)}(.|\n)*/"
    before, *special = markers.parts(closes)
    terminal = rule.upper()
    if not special:
        return [f"{rule}[lazy]: {terminal} {json.dumps(closes)}", f"{terminal}: {text}"]
    rest = " ".join(markers.text(part) for part in special if part)
    if not before:
        return [f"{rule}: {terminal} {rest}", f"{terminal}: {text}"]
    return [f"{rule}: {terminal} {rest}", rf"{terminal}: /(.|\n){{{low},{high}}}{pattern(before)}/"]


def _check(schema: dict[str, Any], format_: ToolCallFormat, param: str) -> None:
    beyond = sorted(schema.keys() - HELD - NOTES | schema.keys() & WHOLE)
    if beyond:
        raise RequestError(f"{param}: this model writes arguments one by one and cannot be held to {beyond[0]}", param)
    if any(text in json.dumps(schema) for text in ('"$ref": "#"', '"$ref": "#/properties')):
        raise RequestError(f"{param}: this model takes references to $defs only", param)
    marks = _marks(format_)
    for name in {**schema.get("properties", {}), **dict.fromkeys(schema.get("required", []))}:
        if not name.strip() or name != name.strip() or "\n" in name or any(mark in name for mark in marks):
            raise RequestError(f"{param}: this model cannot write the argument's name {name!r}", param)


def _marks(format_: ToolCallFormat) -> tuple[str, ...]:
    """What an argument's name must not contain."""
    match format_.arguments:
        case TaggedFields() as fields:
            return fields.markers
        case QuotedFields() as fields:
            return (*fields.markers, '"', ":", ",", "{", "}", "[", "]")
    return ("=", ",", "(", ")")
