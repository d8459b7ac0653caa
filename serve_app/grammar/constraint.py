"""From what a client says about an answer's form to a grammar, which holds the answer to it to the last byte.

Every form becomes one grammar text for llguidance.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec
from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.api.constraint_fields import ConstraintFields, ResponseFormat, StructuredOutputs
from serve_app.grammar.holdable import without_what_no_grammar_holds
from serve_app.grammar.json_texts import RULES_PER_SCHEMA, WHITESPACE, json_grammar
from serve_app.grammar.old_drafts import modern
from serve_app.grammar.schema_walk import rewritten
from serve_app.grammar.structural_tag import structural_tag_grammar
from serve_app.text.json_text import parse_json

__all__ = ["FIT", "Constraint", "constraint_of"]

FIT = "structured_outputs.fit"
# both go over a text once: what they begin to read they take, closed or not
STARTS_LARK = re.compile(r"^[^\S\n]*+[?!]?start\s*+:(?!:=)", re.MULTILINE)
GBNF_START = re.compile(
    r'"(?:\\.|[^"\\])*+"?|\[(?:\\.|[^\]\\])*+\]?|#.*|(?<![\w-])start(?![\w-])'
)  # and what is no name


class Constraint(msgspec.Struct, frozen=True):
    """What an answer must match."""

    grammar: str  # in llguidance's form
    field: str  # of the request that asked for it
    schema: dict[str, Any] | bool | None = None  # JSON Schema of the finished answer, if it is to be JSON
    fits: bool = False  # it is finished within the tokens that the answer may have
    sources: tuple[tuple[str, Any], ...] = ()  # fields with the schemas that it is made of

    @property
    def num_bytes(self) -> int:
        """What counts against the limit: rules of a schema by about as much as the schema that they are made of."""
        return len(self.grammar) // (RULES_PER_SCHEMA if "%json" in self.grammar or self.schema is not None else 1)


def constraint_of(fields: ConstraintFields, limits: ApiConfig) -> Constraint | None:
    """The one constraint of a request. Raises RequestError for several, or for one that makes no sense."""
    found = [
        *_response_format(fields.response_format),
        *_structured(fields.structured_outputs),
        *_guided(fields),
        *_of_peers(fields),
    ]
    fits = fields.structured_outputs is not None and fields.structured_outputs.fit
    if not found:
        if fits:
            raise RequestError(f"{FIT}: no JSON document is asked for", param=FIT)
        return None
    if len(found) > 1:
        both = " and ".join(field for field, _ in found[:2])
        raise RequestError(f"{found[1][0]}: only one constraint can hold, and both {both} are given", found[1][0])
    field, make = found[0]
    _check_sizes(fields, limits.max_grammar_bytes)
    constraint = make()
    if constraint.num_bytes > limits.max_grammar_bytes:
        raise RequestError(f"{field}: {constraint.num_bytes} bytes, at most {limits.max_grammar_bytes}", field)
    if fits and constraint.schema is None:
        raise RequestError(f"{FIT}: only JSON documents can be made to fit, not {field}", param=FIT)
    return msgspec.structs.replace(constraint, fits=fits)


def _check_sizes(fields: ConstraintFields, most: int) -> None:
    """Of texts that become grammars: nothing reads one that is too long as it is written."""
    outputs = fields.structured_outputs
    texts = {
        "structured_outputs.regex": outputs.regex if outputs else None,
        "structured_outputs.grammar": outputs.grammar if outputs else None,
        **{name: getattr(fields, name) for name in ("guided_regex", "guided_grammar", "regex", "ebnf", "grammar")},
    }
    for field, text in texts.items():
        if text is not None and len(text) > most:
            raise RequestError(f"{field}: {len(text)} characters, at most {most}", param=field)


Found = list[tuple[str, Callable[[], Constraint]]]  # the field, and how its constraint is made


def _response_format(form: ResponseFormat | None) -> Found:
    field = "response_format"
    beside = form.schema_ if form is not None else None  # the type, where peers take a schema
    match form.type if form else "text":
        case "json_object":
            if beside is None:
                return [(field, lambda: _json({"type": "object"}, field))]
            return [(field, lambda: _json(beside, f"{field}.schema"))]
        case "json_schema":
            assert form is not None
            if form.json_schema is None and beside is not None:
                return [(field, lambda: _json(beside, f"{field}.schema"))]
            if form.json_schema is None:
                raise RequestError(f"{field}.json_schema: is needed with type json_schema", f"{field}.json_schema")
            schema = form.json_schema.schema_
            if not form.json_schema.strict:
                schema = without_what_no_grammar_holds(modern(schema))
            return [(field, lambda: _json(schema, f"{field}.json_schema.schema"))]
        case "structural_tag":
            assert form is not None
            tag = form.model_dump(exclude_none=True, include={"structures", "triggers", "format"})
            return [(field, lambda: Constraint(structural_tag_grammar(tag, field), field))]
    return []


def _structured(outputs: StructuredOutputs | None) -> Found:
    if outputs is None:
        return []
    field = "structured_outputs"
    found: Found = []
    whitespace = "" if outputs.disable_any_whitespace else outputs.whitespace_pattern or WHITESPACE
    if outputs.json_ is not None:
        schema = _schema(outputs.json_, f"{field}.json")
        if outputs.disable_additional_properties:
            schema = rewritten(schema, _closed)
        found.append((f"{field}.json", lambda: _json(schema, f"{field}.json", whitespace)))
    if outputs.json_object:
        found.append((f"{field}.json_object", lambda: _json({"type": "object"}, f"{field}.json_object", whitespace)))
    found += _plain("structured_outputs.{}", outputs.regex, outputs.choice, outputs.grammar)
    tag = outputs.structural_tag
    if tag is not None:
        at = f"{field}.structural_tag"
        value = _schema(tag, at) if isinstance(tag, str) else tag
        found.append((at, lambda: Constraint(structural_tag_grammar(value, at), at)))
    if not found and not outputs.fit:
        raise RequestError(f"{field}: names no constraint", param=field)
    return found


def _guided(fields: ConstraintFields) -> Found:
    found: Found = []
    if fields.guided_json is not None:
        schema = _schema(fields.guided_json, "guided_json")
        whitespace = fields.guided_whitespace_pattern or WHITESPACE
        found.append(("guided_json", lambda: _json(schema, "guided_json", whitespace)))
    return found + _plain("guided_{}", fields.guided_regex, fields.guided_choice, fields.guided_grammar)


def _of_peers(fields: ConstraintFields) -> Found:
    found = _plain("{}", fields.regex, None, fields.grammar)
    if fields.json_schema is not None:
        schema = _schema(fields.json_schema, "json_schema")
        found.append(("json_schema", lambda: _json(schema, "json_schema")))
    if (ebnf := fields.ebnf) is not None:
        found.append(("ebnf", lambda: Constraint(_any_grammar(ebnf, "ebnf"), "ebnf")))
    return found


def _plain(name: str, regex: str | None, choice: list[str] | None, grammar: str | None) -> Found:
    """The forms that are written alike wherever they are. `name` becomes a field's with `regex` and so on put in."""
    found: Found = []
    if regex is not None:
        at = name.format("regex")
        found.append((at, lambda: Constraint(LLMatcher.grammar_from_regex(regex), at)))
    if choice is not None:
        at_choice = name.format("choice")
        found.append((at_choice, lambda: Constraint(_choice(choice), at_choice)))
    if grammar is not None:
        at_grammar = name.format("grammar")
        found.append((at_grammar, lambda: Constraint(_any_grammar(grammar, at_grammar), at_grammar)))
    return found


def _json(schema: dict[str, Any] | bool, field: str, whitespace: str = WHITESPACE) -> Constraint:
    schema = modern(schema)
    return Constraint(json_grammar(schema, field, whitespace), field, schema, sources=((field, schema),))


def _schema(value: Any, field: str) -> Any:
    """A schema that may be written as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        schema = parse_json(value)
    except ValueError as error:
        raise RequestError(f"{field}: not JSON: {error}", param=field) from None
    if not isinstance(schema, (dict, bool)):
        raise RequestError(f"{field}: a schema is an object, not {type(schema).__name__}", param=field)
    return schema


def _choice(options: list[str]) -> str:
    quoted = ["".join(f"\\x{{{ord(char):x}}}" for char in option) for option in dict.fromkeys(options)]
    return LLMatcher.grammar_from_regex("|".join(quoted))


def _any_grammar(text: str, field: str) -> str:
    if "::=" not in text or STARTS_LARK.search(text):
        return LLMatcher.grammar_from_lark(text)
    try:
        # a rule named start would meet Lark's, which root becomes
        renamed = GBNF_START.sub(lambda found: "rule-start" if found[0] == "start" else found[0], text)
        return LLMatcher.grammar_from_lark(gbnf_to_lark(renamed))
    except Exception as error:  # it raises nothing narrower
        raise RequestError(f"{field}: {str(error)[:500]}", param=field) from None


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """With no properties beyond those it names, if it does not say otherwise."""
    return {"additionalProperties": False, **schema} if "properties" in schema else schema
