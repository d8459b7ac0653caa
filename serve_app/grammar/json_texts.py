"""Grammars of JSON texts.

White space between the tokens of JSON is bounded: a blank, or a line break and its indentation; a weak model could
otherwise write blanks until its tokens run out.
"""

import json
from typing import Any

import jsonschema
from llguidance import LLMatcher

from engine.errors import RequestError

__all__ = ["WHITESPACE", "json_grammar", "json_rule"]

WHITESPACE = r"(\n[ \t]{0,40}| ?)"
FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}


def json_grammar(schema: dict[str, Any] | bool, field: str, whitespace: str = WHITESPACE) -> str:
    """The grammar of the JSON texts that satisfy `schema`. Raises RequestError for what is no schema."""
    if schema is False:
        raise RequestError(f"{field}: nothing satisfies the schema false", param=field)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        at = ".".join([field, *map(str, error.absolute_path)])
        raise RequestError(f"{at}: {error.message}", param=field) from None
    options: Any = {"whitespace_pattern": whitespace} if whitespace else {"whitespace_flexible": False}
    compiled = _without_unknown_formats(schema) if isinstance(schema, dict) else {}
    return LLMatcher.grammar_from_json_schema(json.dumps(compiled), overrides=options)


def json_rule(schema: dict[str, Any] | bool) -> str:
    """The same as a rule of llguidance's Lark dialect."""
    known = _without_unknown_formats(schema) if isinstance(schema, dict) else {}
    return "%json " + json.dumps({**known, "x-guidance": {"whitespace_pattern": WHITESPACE}})


def _without_unknown_formats(schema: dict[str, Any]) -> dict[str, Any]:
    """A format that nobody knows is an annotation (JSON Schema 2020-12, 7.2.1); llguidance takes it for a fault."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            is_unknown = isinstance(value.get("format"), str) and value["format"] not in FORMATS
            return {key: walk(item) for key, item in value.items() if not (key == "format" and is_unknown)}
        return [walk(item) for item in value] if isinstance(value, list) else value

    result: dict[str, Any] = walk(schema)
    return result
