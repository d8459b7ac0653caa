"""Wire fields about structured output, as neutral formats that know the field they came from."""

import pytest

from serve_app.api.constraint_fields import ConstraintFields
from serve_app.openai.output_format import structured_output_of
from serve_app.request.output_format import (
    ChoiceFormat,
    GrammarFormat,
    JsonFormat,
    RegexFormat,
    StructuralTagFormat,
    StructuredOutput,
)

SCHEMA = {"type": "integer"}
NAMED = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": False}}


def output(**fields):
    return structured_output_of(ConstraintFields.model_validate(fields))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"response_format": NAMED},
            JsonFormat(
                field="response_format",
                schema=SCHEMA,
                schema_field="response_format.json_schema.schema",
                strict=False,
            ),
        ),
        (
            {"response_format": {"type": "json_object"}},
            JsonFormat(field="response_format", schema={"type": "object"}),
        ),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
            JsonFormat(field="response_format", schema=SCHEMA, schema_field="response_format.schema"),
        ),
        (
            {"response_format": {"type": "json_schema"}},
            JsonFormat(field="response_format", schema=None, schema_field="response_format.json_schema"),
        ),
        (
            {"structured_outputs": {"json": "{}", "disable_any_whitespace": True}},
            JsonFormat(field="structured_outputs.json", schema="{}", whitespace=""),
        ),
        ({"guided_regex": "a+"}, RegexFormat("guided_regex", "a+")),
        ({"guided_choice": ["a", "b"]}, ChoiceFormat("guided_choice", ("a", "b"))),
        ({"ebnf": 'root ::= "a"'}, GrammarFormat("ebnf", 'root ::= "a"')),
        (
            {"structured_outputs": {"structural_tag": {"format": {}}}},
            StructuralTagFormat("structured_outputs.structural_tag", {"format": {}}),
        ),
    ],
)
def test_each_field_is_one_format(fields, expected):
    assert output(**fields).formats == (expected,)


def test_what_names_no_format_says_nothing():
    assert output() == output(response_format={"type": "text"}) == StructuredOutput()


def test_all_that_is_named_is_there_and_in_order():
    found = output(response_format=NAMED, guided_regex="a", grammar="start: /a/")
    assert [one.field for one in found.formats] == ["response_format", "guided_regex", "grammar"]


def test_an_object_that_names_no_format_is_remembered_for_its_fault():
    empty = output(structured_outputs={"disable_any_whitespace": True})
    assert (empty.empty_field, empty.field_beside_tools) == ("structured_outputs", "structured_outputs")
    fit = output(structured_outputs={"fit": True})
    assert (fit.empty_field, fit.field_beside_tools, fit.must_fit) == ("", "", True)
