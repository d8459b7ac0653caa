"""Tools whose schemas name types as programmers do."""

import jsonschema
import pytest

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.api.requests import ChatRequest
from serve_app.api.validation import validate
from serve_app.chat.adapter import conversation_of
from serve_app.tools.tool_use import tool_use
from serve_app.tools.type_names import with_plain_types
from tests.serve_app.chat.test_tools import post, prompt_of

VALUES = {"string": "x", "integer": 3, "number": 0.5, "boolean": True, "array": ["x"], "object": {"x": 1}, "null": None}
FITS = {"number": {"number", "integer"}}  # every other type takes its own values alone


def tool(parameters):
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def schema_of(parameters):
    chat = validate(ChatRequest, {"messages": [{"role": "user", "content": "x"}], "tools": [tool(parameters)]})
    return tool_use(conversation_of(chat, ApiConfig()), ApiConfig()).schemas["f"]


def taken(schema, value):
    return jsonschema.Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("str", "string"),
        ("STRING", "string"),
        ("varchar(255)", "string"),
        ("Int", "integer"),
        ("long long", "integer"),
        ("float", "number"),
        ("decimal(10, 2)", "number"),
        ("bool", "boolean"),
        ("list[str]", "array"),
        ("List<int>", "array"),
        ("tuple", "array"),
        ("dict", "object"),
        ("dict[str, int]", "object"),
        ("None", "null"),
        *((name, name) for name in VALUES),
    ],
)
def test_a_type_is_known_under_the_names_that_programmers_give_it(name, plain):
    schema = schema_of({"type": "dict", "properties": {"a": {"anyOf": [{"type": name}]}}, "required": ["a"]})
    for kind, value in VALUES.items():
        assert taken(schema, {"a": value}) == (kind in FITS.get(plain, {plain})), kind


@pytest.mark.parametrize("declared", ["any", "", ["str", "any"]])
def test_any_type_takes_every_value(declared):
    schema = schema_of({"type": "object", "properties": {"a": {"type": declared}}})
    assert all(taken(schema, {"a": value}) for value in VALUES.values())


def test_several_types_and_values_of_an_enum():
    schema = with_plain_types({"type": ["str", "string", "None"]})
    assert [kind for kind, value in VALUES.items() if taken(schema, value)] == ["string", "null"]
    schema = with_plain_types({"type": "enum", "enum": ["x", 3]})
    assert [kind for kind, value in VALUES.items() if taken(schema, value)] == ["string", "integer"]


def test_what_only_begins_like_a_type_and_what_is_data_stays():
    for schema in ({"type": "list_price"}, {"type": "internal"}, {"const": {"type": "int"}}, {"type": 5}, {"a": True}):
        assert with_plain_types(schema) == schema


async def test_a_type_that_nobody_knows_is_refused_where_it_stands():
    _, answer = await post("x", tools=[tool({"type": "object", "properties": {"a": {"type": "geometry"}}})])
    assert answer.status_code == 400
    assert "tools.0.function.parameters.properties.a.type: 'geometry'" in answer.json()["error"]["message"]
    with pytest.raises(RequestError):
        schema_of({"type": "list"})


async def test_the_model_reads_the_clients_own_words():
    parameters = {"type": "dict", "properties": {"a": {"type": "list[str]", "required": True}}}
    client, answer = await post("x", tools=[tool(parameters)])
    assert answer.status_code == 200 and '"list[str]", "required": true' in prompt_of(client)


def test_a_property_may_say_of_itself_that_it_is_required():
    old = {
        "type": "object",
        "properties": {"a": {"type": "string", "required": True}, "b": {"type": "string", "required": False}},
    }
    schema = schema_of(old)
    for document in ({"a": "x"}, {"a": "x", "b": "y"}, {"b": "y"}, {}, {"a": 1}):
        assert taken(schema, document) == jsonschema.Draft3Validator(old).is_valid(document), document
    both = schema_of({**old, "required": ["b"]})
    assert taken(both, {"a": "x", "b": "y"}) and not taken(both, {"a": "x"}) and not taken(both, {"b": "y"})
