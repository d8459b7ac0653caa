"""Constraint of structured output: the output format of a request, compiled to one grammar for llguidance."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.grammar.json_grammar import RULES_PER_SCHEMA, WHITESPACE, json_grammar
from serve_app.grammar.schema_upgrade import upgraded
from serve_app.grammar.schema_walk import rewritten
from serve_app.grammar.structural_tag import structural_tag_grammar
from serve_app.grammar.unsupported_keywords import without_unsupported_keywords
from serve_app.request.output_format import (
    FIT,
    ChoiceFormat,
    GrammarFormat,
    JsonFormat,
    OutputFormat,
    RegexFormat,
    StructuralTagFormat,
    StructuredOutput,
)
from serve_app.text.json_text import parse_json

__all__ = ["Constraint", "constraint_of", "regex_of"]

# both go over a text once: what they begin to read they take, closed or not
STARTS_LARK = re.compile(r"^[^\S\n]*+[?!]?start\s*+:(?!:=)", re.MULTILINE)
GBNF_START = re.compile(
    r'"(?:\\.|[^"\\])*+"?|\[(?:\\.|[^\]\\])*+\]?|#.*|(?<![\w-])start(?![\w-])'
)  # and what is no name


class Constraint(msgspec.Struct, frozen=True):
    """The grammar that an answer must satisfy, and the field that it comes from."""

    grammar: str  # in llguidance's form
    field: str  # of the request
    schema: dict[str, Any] | bool | None = None  # JSON Schema of the finished answer, if it is JSON
    fits: bool = False  # budget-constrained: the answer is finished within its tokens
    sources: tuple[tuple[str, Any], ...] = ()  # (field, schema) of each schema in the grammar

    @property
    def num_bytes(self) -> int:
        """The size that counts against the limit; a schema's rules count by about the size of the schema."""
        return len(self.grammar) // (RULES_PER_SCHEMA if "%json" in self.grammar or self.schema is not None else 1)


def regex_of(grammar: str) -> str | None:
    """The regular expression, as written between slashes, of which this grammar was made; None for any other."""
    if not grammar.startswith("{"):
        return None
    lark: str = msgspec.json.decode(grammar)["grammars"][0]["lark_grammar"]
    return lark.removeprefix("start: /").removesuffix("/")


def constraint_of(output: StructuredOutput, limits: ApiConfig) -> Constraint | None:
    """The constraint of a request. Raises RequestError for several formats, or an invalid one."""
    formats = [_resolved(one) for one in output.formats]
    if output.empty_field:
        raise RequestError(f"{output.empty_field}: names no constraint", param=output.empty_field)
    if not formats:
        if output.must_fit:
            raise RequestError(f"{FIT}: no JSON document is asked for", param=FIT)
        return None
    if len(formats) > 1:
        both, second = " and ".join(one.field for one in formats[:2]), formats[1].field
        raise RequestError(f"{second}: only one constraint can hold, and both {both} are given", second)
    (one,) = formats
    constraint, field = _constraint(one, limits.max_grammar_bytes), one.field
    if constraint.num_bytes > limits.max_grammar_bytes:
        raise RequestError(f"{field}: {constraint.num_bytes} bytes, at most {limits.max_grammar_bytes}", field)
    if output.must_fit and constraint.schema is None:
        raise RequestError(f"{FIT}: only JSON documents can be made to fit, not {field}", param=FIT)
    return msgspec.structs.replace(constraint, fits=output.must_fit)


def _resolved(format_: OutputFormat) -> OutputFormat:
    """The format with JSON text parsed, and the schema closed or relaxed as requested."""
    if isinstance(format_, StructuralTagFormat):
        tag = _parsed(format_.tag, format_.field)
        if not isinstance(tag, dict):
            raise RequestError(f"{format_.field}: must be an object, not {type(tag).__name__}", param=format_.field)
        return StructuralTagFormat(format_.field, tag)
    if not isinstance(format_, JsonFormat):
        return format_
    field = format_.schema_field or format_.field
    if format_.schema is None:
        raise RequestError(f"{field}: is needed with type json_schema", field)
    schema = _parsed(format_.schema, field)
    if format_.closed:
        schema = rewritten(schema, _closed)
    if not format_.strict:
        schema = without_unsupported_keywords(upgraded(schema))
    return msgspec.structs.replace(format_, schema=schema)


def _constraint(format_: OutputFormat, max_chars: int) -> Constraint:
    """`max_chars`: longer texts are refused before they are parsed."""
    field = format_.field
    match format_:
        case JsonFormat(schema=schema, whitespace=whitespace):
            assert isinstance(schema, dict | bool), "it is resolved"
            return _json(schema, format_.schema_field or field, WHITESPACE if whitespace is None else whitespace)
        case RegexFormat(pattern=pattern):
            _check_size(pattern, field, max_chars)
            return Constraint(LLMatcher.grammar_from_regex(pattern), field)
        case ChoiceFormat(options=options):
            return Constraint(_choice(options), field)
        case GrammarFormat(text=text):
            _check_size(text, field, max_chars)
            return Constraint(_any_grammar(text, field), field)
        case StructuralTagFormat(tag=tag):
            assert isinstance(tag, dict), "it is resolved"
            return Constraint(structural_tag_grammar(tag, field), field)


def _check_size(text: str, field: str, most: int) -> None:
    if len(text) > most:
        raise RequestError(f"{field}: {len(text)} characters, at most {most}", param=field)


def _json(schema: dict[str, Any] | bool, field: str, whitespace: str = WHITESPACE) -> Constraint:
    schema = upgraded(schema)
    return Constraint(json_grammar(schema, field, whitespace), field, schema, sources=((field, schema),))


def _parsed(value: Any, field: str) -> Any:
    """A schema, parsed if it is JSON text."""
    if not isinstance(value, str):
        return value
    try:
        schema = parse_json(value)
    except ValueError as error:
        raise RequestError(f"{field}: not JSON: {error}", param=field) from None
    if not isinstance(schema, (dict, bool)):
        raise RequestError(f"{field}: a schema is an object, not {type(schema).__name__}", param=field)
    return schema


def _choice(options: Sequence[str]) -> str:
    quoted = ["".join(f"\\x{{{ord(char):x}}}" for char in option) for option in dict.fromkeys(options)]
    return LLMatcher.grammar_from_regex("|".join(quoted))


def _any_grammar(text: str, field: str) -> str:
    if "::=" not in text or STARTS_LARK.search(text):
        return LLMatcher.grammar_from_lark(text)
    try:
        # a rule named start would collide with Lark's, which root becomes
        renamed = GBNF_START.sub(lambda found: "rule-start" if found[0] == "start" else found[0], text)
        return LLMatcher.grammar_from_lark(gbnf_to_lark(renamed))
    except Exception as error:  # llguidance raises nothing narrower
        raise RequestError(f"{field}: {str(error)[:500]}", param=field) from None


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with additionalProperties false, unless it sets them."""
    return {"additionalProperties": False, **schema} if "properties" in schema else schema
