"""Grammars of JSON texts.

White space between the tokens of JSON is bounded: a blank, or a line break and its indentation; a weak model could
otherwise write blanks until its tokens run out.
"""

import json
from typing import Any

import jsonschema
from llguidance import LLMatcher

from engine.errors import RequestError
from serve_app.grammar.expansion import MAX_EXPANSION, expansion
from serve_app.grammar.finite import has_finite_document
from serve_app.grammar.holdable import said_plainly

__all__ = ["WHITESPACE", "json_grammar", "json_rule"]

WHITESPACE = r"(\n[ \t]{0,40}| ?)"
# patterns are llguidance's business: it knows more of ECMA's than Python does
NO_FORMATS = jsonschema.FormatChecker(formats=())


def json_grammar(schema: dict[str, Any] | bool, field: str, whitespace: str = WHITESPACE) -> str:
    """The grammar of the JSON texts that satisfy `schema`. Raises RequestError for what is no schema."""
    if schema is False:
        raise RequestError(f"{field}: nothing satisfies the schema false", param=field)
    try:
        jsonschema.Draft202012Validator.check_schema(schema, format_checker=NO_FORMATS)
    except jsonschema.SchemaError as error:
        at = ".".join([field, *map(str, error.absolute_path)])
        ways = dict.fromkeys(inner.message for inner in error.context or [])  # each says what is wrong with it
        raise RequestError(f"{at}: {', and '.join(ways) or error.message}", param=field) from None
    check_expansion(schema, field)
    if not has_finite_document(schema):
        raise RequestError(
            f"{field}: no document satisfies it that has an end: a schema requires itself, through its references; let "
            "one of them be left out, or be null",
            param=field,
        )
    options: Any = {"whitespace_pattern": whitespace} if whitespace else {"whitespace_flexible": False}
    known = said_plainly(schema) if isinstance(schema, dict) else {}
    return LLMatcher.grammar_from_json_schema(json.dumps(known), overrides=options)


def check_expansion(schema: dict[str, Any] | bool, field: str) -> None:
    """Raises RequestError for a schema that is small as written, and large where references are written out."""
    if expansion(schema) > MAX_EXPANSION:
        raise RequestError(
            f"{field}: allOf and references to one another stand for more than {MAX_EXPANSION} schemas when they are "
            "written out, which is the limit; write what is meant without repeating references under allOf",
            param=field,
        )


def json_rule(schema: dict[str, Any] | bool) -> str:
    """The same as a rule of llguidance's Lark dialect."""
    known = said_plainly(schema) if isinstance(schema, dict) else {}
    return "%json " + json.dumps({**known, "x-guidance": {"whitespace_pattern": WHITESPACE}})
