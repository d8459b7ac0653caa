"""Wire fields of structured output: OpenAI's, vLLM's old and new ones, SGLang's and llama.cpp's."""

from typing import Annotated, Any, Literal

from pydantic import Field

from serve_app.api.fields import Items, Text, WireModel

__all__ = ["ConstraintFields", "ResponseFormat", "StructuredOutputs"]

Schema = dict[str, Any] | bool


class JsonSchemaFormat(WireModel):
    name: str = ""
    description: str = ""
    schema_: Schema = Field(default_factory=dict, alias="schema")
    strict: bool = True  # false: keywords that no grammar supports are ignored, not refused


class ResponseFormat(WireModel):
    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchemaFormat | None = None
    schema_: Schema | None = Field(default=None, alias="schema")  # where SGLang and llama.cpp take it
    # structural_tag in the first form of vLLM and SGLang
    structures: Items[dict[str, Any]] | None = None
    triggers: Items[Text] | None = None
    # and in their present one
    format: dict[str, Any] | None = None


class StructuredOutputs(WireModel):
    json_: Schema | str | None = Field(default=None, alias="json")
    json_object: bool = False
    regex: Text | None = None
    choice: Annotated[Items[Text], Field(min_length=1)] | None = None
    grammar: Text | None = None  # Lark, or GBNF/EBNF
    structural_tag: dict[str, Any] | str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: Text | None = None
    fit: bool = False  # a JSON document, whichever field asks for it, is finished within max_tokens


class ConstraintFields(WireModel):
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | str | None = None
    guided_regex: Text | None = None
    guided_choice: Annotated[Items[Text], Field(min_length=1)] | None = None
    guided_grammar: Text | None = None
    guided_whitespace_pattern: Text | None = None
    # SGLang's and llama.cpp's
    json_schema: Schema | str | None = None
    regex: Text | None = None
    ebnf: Text | None = None
    grammar: Text | None = None
