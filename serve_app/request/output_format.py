"""Structured output as a request asks for it: JSON schema, regex, choice, grammar or structural tag."""

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

FIT = "structured_outputs.fit"  # the field that asks for a document within its tokens

Schema = dict[str, Any] | bool


class JsonFormat(msgspec.Struct, frozen=True, kw_only=True):
    """JSON that satisfies a schema."""

    field: str  # of the request, that asks for it
    schema: Schema | str | None  # str: JSON text; None: missing
    schema_field: str = ""  # where the schema stands or is missing; "": in `field`
    whitespace: str | None = None  # a pattern of what stands between JSON's tokens; None: the server's
    strict: bool = True  # false: keywords that no grammar supports are left out, not refused
    closed: bool = False  # no properties beyond those that the schema names


class RegexFormat(msgspec.Struct, frozen=True):
    field: str
    pattern: str


class ChoiceFormat(msgspec.Struct, frozen=True):
    """One of several texts."""

    field: str
    options: tuple[str, ...]


class GrammarFormat(msgspec.Struct, frozen=True):
    """A text in Lark's notation, or in GBNF/EBNF."""

    field: str
    text: str


class StructuralTagFormat(msgspec.Struct, frozen=True):
    field: str
    tag: dict[str, Any] | str  # str: JSON text


OutputFormat = JsonFormat | RegexFormat | ChoiceFormat | GrammarFormat | StructuralTagFormat


class StructuredOutput(msgspec.Struct, frozen=True):
    """What an answer must look like."""

    formats: tuple[OutputFormat, ...] = ()  # all that the request names; more than one is refused
    must_fit: bool = False  # a JSON document is finished within max_tokens
    empty_field: str = ""  # an object of the request that should name a format and does not
    field_beside_tools: str = ""  # that cannot stand beside a tool which must be called
