"""What is wrong with a schema is told by field, path and keyword, in words and in nobody's internals."""

import json
import re
from typing import Any

import pytest

from tests.serve_app.scripted import ScriptedClient, chat, says, serving

URL = "/v1/chat/completions"
# of llguidance, its grammars, and jsonschema
INTERNAL = re.compile(
    r"%json|%lark|NoExtension|<non-verbose|[Ff]ailed to|at \d+\(\d+\)|\d+ \| |SearchRegex|\(And |lexeme|Unimplemented"
    r"|json-schema:|regex parse|Regex is|ValidationError|Traceback|\n|start:|\br\d+\b|coerce|is not valid under"
)
NODE = {"type": "object", "properties": {"x": {"$ref": "#/$defs/n", "maxProperties": 2}}, "additionalProperties": False}
MISTAKES: list[tuple[str, Any]] = [
    *(
        (key, {key: "3"})
        for key in ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
    ),
    *((key, {key: -1}) for key in ("minLength", "maxItems", "minProperties")),
    *((key, {key: 1.5}) for key in ("maxLength", "minItems")),
    *((key, {key: "3"}) for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
    *((key, {key: value}) for key in ("multipleOf",) for value in (0, -1, None)),
    *((key, {key: value}) for key in ("anyOf", "oneOf", "allOf", "prefixItems") for value in ([], {}, 3)),
    *((key, {key: [1]}) for key in ("anyOf", "allOf")),
    *((key, {key: value}) for key in ("properties", "patternProperties", "$defs") for value in (3, [])),
    ("properties", {"properties": {"y": 3}}),
    *((key, {key: "x"}) for key in ("items", "additionalProperties")),
    *(("type", {"type": value}) for value in ("strng", 3, [], ["string", "txt"], None)),
    *(("enum", {"enum": value}) for value in ([], "a", {})),
    *(("required", {"required": value}) for value in ("a", [1], {})),
    *((key, {key: 3}) for key in ("pattern", "format", "$ref")),
    *(("pattern", {"type": "string", "pattern": value}) for value in ("([", "(", "a)", "*a", "[z-a]", "a{3,2}", "\\")),
    *(("$ref", {"$ref": value}) for value in ("#/components/schemas/X", "#/$defs/none", "#nowhere", "#/$defs/0/1")),
]
NOTHING: list[tuple[str, Any]] = [
    ("minimum", {"type": "integer", "minimum": 2, "maximum": 1}),
    ("minimum", {"type": "number", "minimum": 2**63, "exclusiveMaximum": 2**63}),
    ("exclusiveMinimum", {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2}),
    ("multipleOf", {"type": "number", "multipleOf": 0.5, "minimum": 0.1, "maximum": 0.4}),
    ("minLength", {"type": "string", "minLength": 2, "maxLength": 1}),
    ("minItems", {"type": "array", "minItems": 2, "maxItems": 1}),
    ("minProperties", {"type": "object", "minProperties": 2, "maxProperties": 1}),
    ("maxProperties", {"type": "object", "required": ["a", "b"], "maxProperties": 1}),
    ("pattern", {"type": "string", "pattern": "^a{5}$", "maxLength": 3}),
    ("format", {"type": "string", "format": "uuid", "maxLength": 3}),
    ("enum", {"type": "integer", "enum": ["a"]}),
    ("enum", {"type": "string", "enum": ["a"], "pattern": "^b"}),
    ("const", {"type": "integer", "const": 2**64, "maximum": 2**64 - 1}),
    ("type", {"allOf": [{"type": "string"}, {"type": "integer"}]}),
    ("$ref", {"$ref": "#/$defs/n", "$defs": {"n": {"$ref": "#/$defs/n"}}}),
    ("$ref", {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}}),
]
BEYOND: list[tuple[str, Any]] = [
    *((key, {key: {"const": 1}}) for key in ("not", "if", "contains")),
    *((key, {"type": "object", key: {"a": ["b"]}}) for key in ("dependentRequired",)),
    ("unevaluatedProperties", {"allOf": [{"type": "object"}], "unevaluatedProperties": False}),
    ("unevaluatedItems", {"type": "array", "unevaluatedItems": False, "prefixItems": [{}]}),
    ("$dynamicRef", {"$dynamicRef": "#n"}),
    ("propertyNames", {"type": "object", "propertyNames": {"not": {"const": "a"}}}),
    ("oneOf", {"oneOf": [{"type": "integer"}, {"type": "number"}]}),
    *(
        ("pattern", {"type": "string", "pattern": value})
        for value in (r"\bfoo", r"(a)\1", "a(?=b)c", r"\p{Klingon}", "a++")
    ),
    ("multipleOf", {"type": "number", "multipleOf": 0.0000123457, "minimum": 0}),
    ("minItems", {"type": "array", "minItems": 10**12}),
    ("$ref", {"$ref": "https://json.schemastore.org/package"}),
    ("minimum", {"allOf": [{"type": "array", "items": {"minimum": 2**63}}, {"items": {"type": "integer"}}]}),
]


def tools(schema: Any, strict: bool) -> dict[str, Any]:
    inner = {"type": "object", "properties": {"p": schema}, "required": ["p"]}
    named = {"name": "second_one", "strict": strict, "parameters": inner}
    return {"tools": [{"type": "function", "function": one} for one in ({"name": "first"}, named)]}


def form(schema: Any, strict: bool) -> dict[str, Any]:
    inner = {"type": "object", "properties": {"p": schema}, "required": ["p"]}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": inner, "strict": strict}}}


FIELDS = {form: "response_format.json_schema.schema", tools: "tools.1.function.parameters"}


async def told(make: Any, schema: Any, strict: bool) -> tuple[int, str]:
    schema = json.loads(json.dumps(schema).replace("#/$defs/", "#/properties/p/$defs/"))
    async with serving(ScriptedClient(says("{}", finish="length"))) as http:
        answer = await http.post(URL, json=chat(**make(schema, strict)))
    message = answer.json().get("error", {}).get("message", "")
    assert not INTERNAL.search(message), message
    return answer.status_code, message


@pytest.mark.parametrize("make", [form, tools])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("keyword", "schema"), [*MISTAKES, *NOTHING])
async def test_a_mistake_is_told_by_path_and_keyword(make, strict, keyword, schema):
    status, message = await told(make, schema, strict)
    assert status == 400, schema
    assert message.startswith(f"{FIELDS[make]}.properties.p") or (keyword == "$ref" and "$ref" in message), message
    assert keyword in message, message


@pytest.mark.parametrize("make", [form, tools])
@pytest.mark.parametrize(("keyword", "schema"), BEYOND)
async def test_what_no_grammar_holds_is_refused_if_strict_and_else_left_out(make, keyword, schema):
    status, message = await told(make, schema, strict=True)
    assert status == 400 and message.startswith(f"{FIELDS[make]}.properties.p"), message
    assert f"no grammar can hold an answer to {keyword}" in message and "set strict to false" in message
    assert (await told(make, schema, strict=False))[0] == 200


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "patternProperties": {"^a": {"type": "string"}, "a$": {"type": "integer"}}},
        {"$ref": "#/$defs/n", "minProperties": 1, "$defs": {"n": NODE}},
        {"type": "string", "pattern": "((a{999}){999}){999}"},
        {"allOf": [{"type": "object", "properties": {}, "additionalProperties": False}, {"required": ["b"]}]},
        {"type": "string", "pattern": r"^\w+$", "minLength": 10**6},
    ],
)
async def test_what_the_compiler_refuses_is_told_in_words(schema):
    status, message = await told(form, schema, strict=True)
    if status != 200:
        assert message.startswith("response_format.json_schema.schema.properties.p"), message


@pytest.mark.parametrize("pattern", [r"^[-a-z]+\Z", r"\A[a-z]{2,4}\Z", r"^[^]+$", r"^\w+(?#word)$", r"^{{.*}}$"])
@pytest.mark.parametrize("strict", [True, False])
async def test_patterns_of_other_dialects_are_translated(pattern, strict):
    for make in (form, tools):
        assert (await told(make, {"type": "string", "pattern": pattern}, strict))[0] == 200
