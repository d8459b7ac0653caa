"""Adapter of structured output: response_format, structured_outputs, guided_*, SGLang's and llama.cpp's fields."""

from serve_app.api.constraint_fields import ConstraintFields, ResponseFormat, StructuredOutputs
from serve_app.request.output_format import (
    ChoiceFormat,
    GrammarFormat,
    JsonFormat,
    OutputFormat,
    RegexFormat,
    StructuralTagFormat,
    StructuredOutput,
)

__all__ = ["structured_output_of"]

NOTHING = StructuredOutput()
ANY_OBJECT = {"type": "object"}


def structured_output_of(fields: ConstraintFields) -> StructuredOutput:
    """All formats of the request; grammar.constraint validates them."""
    outputs = fields.structured_outputs
    formats = (
        *_response_format(fields.response_format),
        *(_structured(outputs) if outputs is not None else ()),
        *_guided(fields),
        *_of_peers(fields),
    )
    if outputs is None:
        return StructuredOutput(formats) if formats else NOTHING
    names_more = bool(outputs.model_fields_set - {"fit"})
    is_empty = not outputs.fit and not _structured(outputs)
    return StructuredOutput(
        formats,
        must_fit=outputs.fit,
        empty_field="structured_outputs" if is_empty else "",
        field_beside_tools="structured_outputs" if names_more else "",
    )


def _response_format(form: ResponseFormat | None) -> list[OutputFormat]:
    if form is None or form.type == "text":
        return []
    field = "response_format"
    if form.type == "structural_tag":
        tag = form.model_dump(exclude_none=True, include={"structures", "triggers", "format"})
        return [StructuralTagFormat(field, tag)]
    if form.type == "json_schema" and form.json_schema is not None:
        named = form.json_schema
        at = f"{field}.json_schema.schema"
        return [JsonFormat(field=field, schema=named.schema_, schema_field=at, strict=named.strict)]
    if form.schema_ is not None:  # beside the type, as peers accept it
        return [JsonFormat(field=field, schema=form.schema_, schema_field=f"{field}.schema")]
    if form.type == "json_object":
        return [JsonFormat(field=field, schema=ANY_OBJECT)]
    return [JsonFormat(field=field, schema=None, schema_field=f"{field}.json_schema")]


def _structured(outputs: StructuredOutputs) -> list[OutputFormat]:
    field = "structured_outputs"
    found: list[OutputFormat] = []
    whitespace = "" if outputs.disable_any_whitespace else outputs.whitespace_pattern
    if outputs.json_ is not None:
        is_closed = outputs.disable_additional_properties
        found.append(JsonFormat(field=f"{field}.json", schema=outputs.json_, whitespace=whitespace, closed=is_closed))
    if outputs.json_object:
        found.append(JsonFormat(field=f"{field}.json_object", schema=ANY_OBJECT, whitespace=whitespace))
    found += _plain(f"{field}.", outputs.regex, outputs.choice, outputs.grammar)
    if outputs.structural_tag is not None:
        found.append(StructuralTagFormat(f"{field}.structural_tag", outputs.structural_tag))
    return found


def _guided(fields: ConstraintFields) -> list[OutputFormat]:
    found: list[OutputFormat] = []
    if fields.guided_json is not None:
        whitespace = fields.guided_whitespace_pattern
        found.append(JsonFormat(field="guided_json", schema=fields.guided_json, whitespace=whitespace))
    return found + _plain("guided_", fields.guided_regex, fields.guided_choice, fields.guided_grammar)


def _of_peers(fields: ConstraintFields) -> list[OutputFormat]:
    found = _plain("", fields.regex, None, fields.grammar)
    if fields.json_schema is not None:
        found.append(JsonFormat(field="json_schema", schema=fields.json_schema))
    if fields.ebnf is not None:
        found.append(GrammarFormat("ebnf", fields.ebnf))
    return found


def _plain(prefix: str, regex: str | None, choice: list[str] | None, grammar: str | None) -> list[OutputFormat]:
    """The formats with the same shape in all fields."""
    found: list[OutputFormat] = []
    if regex is not None:
        found.append(RegexFormat(f"{prefix}regex", regex))
    if choice is not None:
        found.append(ChoiceFormat(f"{prefix}choice", tuple(choice)))
    if grammar is not None:
        found.append(GrammarFormat(f"{prefix}grammar", grammar))
    return found
