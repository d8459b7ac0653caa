"""Output formats of structured output: JSON schema, regex, choice, grammar or structural tag."""

from typing import Any

import msgspec

__all__ = [
    "FIT",
    "ChoiceFormat",
    "GrammarFormat",
    "JsonFormat",
    "OutputFormat",
    "RegexFormat",
    "StructuralTagFormat",
    "StructuredOutput",
]

FIT = "structured_outputs.fit"  # the field of budget-constrained decoding

Schema = dict[str, Any] | bool


class JsonFormat(msgspec.Struct, frozen=True, kw_only=True):
    """JSON that satisfies a schema."""

    field: str  # the client's field
    schema: Schema | str | None  # str: JSON text; None: missing
    schema_field: str = ""  # the field that has or lacks the schema; "": `field`
    whitespace: str | None = None  # a pattern of the whitespace between JSON's tokens; None: the server's
    strict: bool = True  # false: unsupported keywords are ignored, not refused
    closed: bool = False  # no properties besides those of the schema


class RegexFormat(msgspec.Struct, frozen=True):
    field: str
    pattern: str


class ChoiceFormat(msgspec.Struct, frozen=True):
    """One of several texts."""

    field: str
    options: tuple[str, ...]


class GrammarFormat(msgspec.Struct, frozen=True):
    """A grammar in Lark's notation, or in GBNF/EBNF."""

    field: str
    text: str


class StructuralTagFormat(msgspec.Struct, frozen=True):
    field: str
    tag: dict[str, Any] | str  # str: JSON text


OutputFormat = JsonFormat | RegexFormat | ChoiceFormat | GrammarFormat | StructuralTagFormat


class StructuredOutput(msgspec.Struct, frozen=True):
    """The structured output of a request."""

    formats: tuple[OutputFormat, ...] = ()  # all formats of the request; more than one is refused
    must_fit: bool = False  # a JSON document is finished within max_tokens
    empty_field: str = ""  # an object of the request that should have a format and has none
    field_beside_tools: str = ""  # a field that a forced tool call excludes
