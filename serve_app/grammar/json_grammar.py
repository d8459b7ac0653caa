"""JSON grammar: compiles a JSON schema to a grammar for llguidance, with error messages for schemas that have none.

Whitespace between JSON's tokens is bounded: a blank, or a line break and its indentation. Otherwise a weak model may
write blanks until max_tokens.
"""

import json
from collections.abc import Iterator
from typing import Any

from llguidance import LLMatcher

from engine.errors import RequestError
from serve_app.grammar.expansion import MAX_EXPANSION, expansion
from serve_app.grammar.finite import has_finite_document
from serve_app.grammar.json_rules import JsonRules
from serve_app.grammar.lark import within_slashes
from serve_app.grammar.rule_faults import InvalidSchema, Piece, Unsatisfiable, Unsupported
from serve_app.grammar.schema_walk import Path
from serve_app.grammar.unsupported_keywords import normalized, strict_hint
from serve_app.grammar.well_formed import schema_mistake

__all__ = ["RULES_PER_SCHEMA", "WHITESPACE", "json_grammar", "json_rule", "pieces_of"]

RULES_PER_SCHEMA = 4  # bytes of rules per byte of schema, at most
WHITESPACE = r"(\n[ \t]{0,40}| ?)"


def json_grammar(schema: dict[str, Any] | bool, field: str, whitespace: str = WHITESPACE) -> str:
    """The grammar of the JSON texts that satisfy `schema`. Raises RequestError for an invalid schema."""
    if schema is False:
        raise RequestError(f"{field}: nothing satisfies the schema false", param=field)
    if mistake := schema_mistake(schema):
        raise RequestError(f"{_place(field, mistake[0])}: {mistake[1]}", param=field)
    check_expansion(schema, field)
    if not has_finite_document(schema):
        raise RequestError(
            f"{field}: no document satisfies it that has an end: a schema requires itself, through its $ref; let "
            "one of them be left out, or be null",
            param=field,
        )
    try:
        return LLMatcher.grammar_from_lark("\n".join(_lark(schema, whitespace)))
    except Unsupported as fault:
        raise RequestError(f"{_place(field, fault.path)}: {_unsupported(fault, field)}", param=field) from None
    except InvalidSchema as fault:
        raise RequestError(f"{_place(field, fault.path)}.{fault.keyword}: {fault}", param=field) from None
    except RecursionError:
        raise RequestError(f"{field}: its schemas are too deep in each other", param=field) from None
    except Unsatisfiable as fault:
        place = _place(field, fault.path)
        raise RequestError(f"{place}: no document satisfies it: {fault.keyword}: {fault}", param=field) from None


def check_expansion(schema: dict[str, Any] | bool, field: str) -> None:
    """Raises RequestError for a schema whose expansion is too large (expansion.py)."""
    if expansion(schema) > MAX_EXPANSION:
        raise RequestError(
            f"{field}: allOf and references to one another stand for more than {MAX_EXPANSION} schemas when they are "
            "written out, which is the limit; write what is meant without repeating references under allOf",
            param=field,
        )


def json_rule(schema: dict[str, Any] | bool) -> str:
    """The same as an expression within a rule of llguidance's Lark dialect."""
    return "\n".join(["%lark {", *_lark(schema, WHITESPACE), "}"])


def _lark(schema: dict[str, Any] | bool, whitespace: str) -> list[str]:
    options: Any = {"whitespace_pattern": whitespace} if whitespace else {"whitespace_flexible": False}
    rules = JsonRules(normalized(schema), options)
    start = rules.write()
    ignored = [f"%ignore /{within_slashes(whitespace)}/"] if whitespace else []
    noted = f'// "required": {json.dumps(list(rules.required))}'  # a hint for the engine's search of a short completion
    return ['%llguidance {"ignore_once": true}', *ignored, noted, f"start: {start}", *rules.lines]


def pieces_of(schema: Any, field: str) -> Iterator[tuple[Piece, str, str]]:
    """The parts of a schema that llguidance's JSON compiler gets: (piece, path, grammar of it alone)."""
    rules = JsonRules(normalized(schema), {"whitespace_pattern": WHITESPACE})
    rules.write()
    bodies = dict(line.split(": ", 1) for line in rules.lines)
    for piece in dict.fromkeys(rules.pieces):
        name = "ALONE" if piece.rule.startswith("T") else "alone"  # a terminal, or a rule
        yield piece, _place(field, piece.path), f"%llguidance {{}}\nstart: {name}\n{name}: {bodies[piece.rule]}"


def _place(field: str, path: Path) -> str:
    return ".".join([field, *path])


def _unsupported(fault: Unsupported, field: str) -> str:
    why = f" ({fault})" if str(fault) else ""
    instead = "use anyOf" if fault.keyword == "oneOf" else "leave it out"
    return f"no grammar can hold an answer to {fault.keyword}{why}; {instead}{strict_hint(field)}"
