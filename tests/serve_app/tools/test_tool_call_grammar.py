"""What the grammar lets a model write, the parser reads as calls."""

import json
import random
import re

import jsonschema
import pytest

from configs.schema import ApiConfig
from engine.errors import RequestError
from engine.structured_output.grammar import GrammarError, TokenTable, Vocabulary
from engine.types import Grammar
from serve_app.api.requests import ChatRequest
from serve_app.api.validation import validate
from serve_app.chat.adapter import conversation_of
from serve_app.grammar.constraint import Constraint
from serve_app.tools.formats import HARMONY, TOOL_CALL_FORMATS
from serve_app.tools.harmony_parser import HarmonyParser
from serve_app.tools.tool_call_grammar import tool_constraint
from serve_app.tools.tool_call_parser import ToolCallParser
from serve_app.tools.tool_use import tool_use

SCHEMAS = {
    "get": {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    },
    'q"x': {"properties": {"s": {"type": "string", "maxLength": 8}}, "additionalProperties": False},
}
MARKERS = " ".join(marker for one in TOOL_CALL_FORMATS.values() for marker in one.markers)
SPECIAL = sorted({*re.findall(r"<[|｜][^|｜>]*[|｜]?>|<\w+\|>|\[[A-Z_]+\]", MARKERS)})
FORM = Constraint(
    "",
    "response_format",
    {"type": "object", "properties": {"z": {"const": 1}}, "required": ["z"], "additionalProperties": False},
)


def vocabulary(is_special=True):
    """Bytes from 1 on, then the formats' markers."""
    from serve_app.text.vocabulary import Vocabulary as TextVocabulary

    data = (b"<end>", *(bytes([byte]) for byte in range(256)), *(marker.encode() for marker in SPECIAL))
    ids = frozenset([0, *range(257, len(data))]) if is_special else frozenset([0])
    shown = tuple(b"" if token in ids else one for token, one in enumerate(data))
    return TextVocabulary(all_bytes=data, shown_bytes=shown, special_ids=ids, longest_bytes=40, strips_space=False)


def use(**fields):
    tools = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in SCHEMAS.items()]
    chat = validate(ChatRequest, {"messages": [{"role": "user", "content": "x"}], "tools": tools, **fields})
    return tool_use(conversation_of(chat, ApiConfig()), ApiConfig())


def table_of(words):
    return TokenTable(Vocabulary(words.all_bytes, tuple(sorted(words.special_ids)), (0,)), words.num_tokens)


def write(table, grammar, draw, max_tokens=1500):
    """A random answer under the grammar, favouring its end; None if it did not end."""
    import numpy as np

    matcher, output = table.matcher(Grammar(grammar)), []
    bits = np.empty(-(-table.vocab_size // 32), dtype=np.int32)
    for _ in range(max_tokens):
        matcher.fill(bits)
        allowed = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")[: table.vocab_size])
        token = int(draw.choice(allowed)) if not (0 in allowed and draw.random() < 0.3) else 0
        if token == 0:
            return b"".join(table.tokens[one] for one in output).decode("utf-8", "replace")
        output.append(token)
        matcher.consume(token)
    return None


def parse(format_, text):
    parser = HarmonyParser(SCHEMAS, "before", None) if format_ is HARMONY else ToolCallParser(format_, SCHEMAS)
    content, calls = "", []
    for said in (parser.push(text), parser.flush()):
        content += said.content
        for piece in said.tool_calls:
            if piece.name is not None:
                calls.append([piece.name, ""])
            calls[-1][1] += piece.arguments
    return content, calls


def call_of(format_, value="1"):
    """A call of `get` as the format writes it."""
    syntax = format_.syntax
    arguments = f'{{"n": {value}}}'
    if format_.arguments != "json":
        arguments = syntax.field_opens.replace("KEY", "n") + value + syntax.field_closes
    return syntax.begins + syntax.opens.replace("NAME", "get") + arguments + syntax.closes + syntax.ends


def accepts(table, grammar, text):
    matcher = table.matcher(Grammar(grammar))
    by_text = {table.tokens[token]: token for token in table.special_token_ids}
    rest = text.encode()
    try:
        while rest:
            marker = next((one for one in by_text if one and rest.startswith(one)), None)
            matcher.consume(by_text[marker] if marker else 1 + rest[0])
            rest = rest[len(marker or b"x") :]
        matcher.consume(0)
    except GrammarError:
        return False
    return True


@pytest.mark.parametrize("name", TOOL_CALL_FORMATS)
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get"}}])
def test_forced_answers_are_calls_and_nothing_else(name, choice):
    format_, words, draw = TOOL_CALL_FORMATS[name], vocabulary(), random.Random(name)
    table = table_of(words)
    grammar = tool_constraint(use(tool_choice=choice), format_, words, None).grammar
    table.check(grammar)
    num_written = 0
    for _ in range(25):
        text = write(table, grammar, draw)
        if text is None:
            continue
        content, calls = parse(format_, text)
        assert content == "" and calls, text
        assert choice == "required" or len(calls) == 1
        for called, arguments in calls:
            assert called in (SCHEMAS if choice == "required" else ["get"])
            assert isinstance(json.loads(arguments), dict)
            assert called != "get" or isinstance(json.loads(arguments)["n"], int)
        num_written += 1
    assert num_written > 10


@pytest.mark.parametrize("is_special", [True, False])
@pytest.mark.parametrize("name", [name for name in TOOL_CALL_FORMATS if name != "harmony"])
def test_an_answer_that_is_free_may_talk_but_a_call_that_begins_must_be_one(name, is_special):
    format_, words = TOOL_CALL_FORMATS[name], vocabulary(is_special)
    table = table_of(words)
    grammar = tool_constraint(use(), format_, words, None).grammar
    table.check(grammar)
    syntax = format_.syntax
    call = call_of(format_)
    assert accepts(table, grammar, "")
    assert accepts(table, grammar, "just [text] <b>here</b>\n")
    assert accepts(table, grammar, call)
    assert parse(format_, call) == ("", [["get", '{"n": 1}']])
    assert not accepts(table, grammar, call_of(format_, '"x"'))
    assert not accepts(table, grammar, call.replace("get", "other"))
    assert accepts(table, grammar, '{"a": [1]}')
    if not format_.bare:
        assert accepts(table, grammar, "I look.\n" + call)
        assert not accepts(table, grammar, "I look.\n" + (syntax.begins or syntax.opens.split("NAME")[0]) + " hm")


@pytest.mark.parametrize(
    "name",
    ["hermes", "mistral", "llama3_json", "pythonic", "qwen3_coder", "glm45", "minimax_m2", "xlam", "cohere_command3"],
)
def test_with_a_form_the_answer_is_calls_or_the_document(name):
    format_, words = TOOL_CALL_FORMATS[name], vocabulary()
    table = table_of(words)
    grammar = tool_constraint(use(), format_, words, FORM).grammar
    table.check(grammar)
    assert accepts(table, grammar, '{"z": 1}')
    assert not accepts(table, grammar, '{"z": 2}') and not accepts(table, grammar, "text")
    assert accepts(table, grammar, call_of(format_))


THINKS = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"


def test_channels_hold_calls_and_documents_after_any_thinking():
    words = vocabulary()
    table, call = table_of(words), call_of(HARMONY)
    free = tool_constraint(use(), HARMONY, words, None).grammar
    forced = tool_constraint(use(tool_choice="required"), HARMONY, words, None).grammar
    formed = tool_constraint(use(), HARMONY, words, FORM).grammar
    says = "<|channel|>final<|message|>"
    for text, accepted_by in {
        call: {free, forced, formed},
        THINKS + call: {free, forced, formed},
        THINKS + THINKS + says + "yes": {free},
        says + '{"z": 1}': {free, formed},
        says + '{"z": 2}': {free},
        "just text": {free},
        call.replace("get", "other"): set(),
        call.replace("1}", '"x"}'): set(),
    }.items():
        for grammar in (free, forced, formed):
            assert accepts(table, grammar, text) is (grammar in accepted_by), (text, grammar)
    with pytest.raises(RequestError, match="no token"):
        tool_constraint(use(), HARMONY, vocabulary(is_special=False), None)


FIELDS = {
    "type": "object",
    "properties": {
        "a b": {"type": "string", "minLength": 2, "maxLength": 6},
        "day": {"type": "string", "pattern": "^[a-c]{2}$"},
        "kind": {"type": "string", "enum": ["x y", "</z>"]},
        "at": {"$ref": "#/$defs/point"},
        "is": {"type": "boolean"},
        "may": {"type": ["string", "null"], "maxLength": 3},
    },
    "required": ["a b", "kind", "extra"],
    "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9},
    "$defs": {"point": {"type": "array", "items": {"type": "integer", "maximum": 9}, "maxItems": 2}},
}


@pytest.mark.parametrize("is_special", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "pythonic",
        "olmo3",
        "lfm2",
        "qwen3_coder",
        "glm45",
        "seed_oss",
        "minimax_m2",
        "deepseek_v32",
        "step3",
        "gemma4",
        "longcat_fields",
    ],
)
def test_arguments_that_are_written_one_by_one_satisfy_their_schema(name, is_special):
    format_, words, draw = TOOL_CALL_FORMATS[name], vocabulary(is_special), random.Random(name)
    table = table_of(words)
    tools = [{"type": "function", "function": {"name": "get", "parameters": FIELDS}}]
    grammar = tool_constraint(use(tools=tools, tool_choice="required"), format_, words, None).grammar
    table.check(grammar)
    num_written, seen = 0, set()
    for _ in range(40):
        text = write(table, grammar, draw, 3000)
        if text is None:
            continue
        parser = ToolCallParser(format_, {"get": FIELDS})
        pieces = [*parser.push(text).tool_calls, *parser.flush().tool_calls]
        joined = "".join("\0" if piece.name else piece.arguments for piece in pieces).split("\0")[1:]
        assert joined, text
        for arguments in joined:
            jsonschema.validate(json.loads(arguments), FIELDS)
            seen |= json.loads(arguments).keys()
        num_written += 1
    assert num_written > 10 and seen == {*FIELDS["properties"], "extra"}


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [{"required": ["a"]}]},
        {"minProperties": 1},
        {"properties": {"a=b": {}, "a>b": {}, "a</arg_key>b": {}, "a:b": {}}},
        {"properties": {"": {}}},
        {"properties": {"a": {"$ref": "#"}}},
    ],
)
@pytest.mark.parametrize("name", ["pythonic", "qwen3_coder", "glm45", "gemma4"])
def test_what_cannot_be_held_one_by_one_is_refused(name, schema):
    tools = [{"type": "function", "function": {"name": "get", "parameters": schema}}]
    with pytest.raises(RequestError, match=r"tools\.0\.function\.parameters"):
        tool_constraint(use(tools=tools), TOOL_CALL_FORMATS[name], vocabulary(), None)


def test_one_call_is_enough_where_calls_are_not_parallel():
    words = vocabulary()
    table = table_of(words)
    call = '<tool_call>\n{"name": "get", "arguments": {"n": 1}}\n</tool_call>'
    for fields, is_good in (({}, True), ({"parallel_tool_calls": False}, False)):
        grammar = tool_constraint(
            use(tool_choice="required", **fields), TOOL_CALL_FORMATS["hermes"], words, None
        ).grammar
        assert accepts(table, grammar, call)
        assert accepts(table, grammar, f"{call}\n{call}") is is_good


def test_a_schema_that_is_none_is_refused():
    bad = [{"type": "function", "function": {"name": "f", "parameters": {"type": "nonsense"}}}]
    with pytest.raises(RequestError, match=r"tools\.0\.function\.parameters\.type"):
        tool_constraint(use(tools=bad), TOOL_CALL_FORMATS["hermes"], vocabulary(), None)


BEYOND_GRAMMARS = {
    "type": ["object", "null"],
    "properties": {
        "not": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True, "contains": {"const": "a"}},
        "map": {"type": "object", "propertyNames": {"pattern": "^a"}, "additionalProperties": {"type": "integer"}},
        "word": {"type": "string", "pattern": "^(?!x)", "format": "phone"},
        "number": {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    },
    "if": {"required": ["tags"]},
    "then": {"required": ["map"]},
    "dependentRequired": {"tags": ["map"]},
}


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("name", ["hermes", "qwen3_coder", "pythonic", "harmony"])
def test_a_tool_is_held_to_as_much_of_its_schema_as_a_grammar_can_hold(name, choice):
    words = vocabulary()
    tools = [{"type": "function", "function": {"name": "get", "parameters": BEYOND_GRAMMARS}}]
    table_of(words).check(
        tool_constraint(use(tools=tools, tool_choice=choice), TOOL_CALL_FORMATS[name], words, None).grammar
    )


def test_what_a_grammar_can_hold_is_held_beside_what_it_cannot():
    words = vocabulary()
    tools = [{"type": "function", "function": {"name": "get", "parameters": BEYOND_GRAMMARS}}]
    grammar = tool_constraint(
        use(tools=tools, tool_choice="required"), TOOL_CALL_FORMATS["hermes"], words, None
    ).grammar
    call = '<tool_call>\n{"name": "get", "arguments": %s}\n</tool_call>'
    for arguments, is_good in (
        ('{"not": 1}', True),
        ('{"not": "a"}', False),
        ('{"tags": [1]}', False),
        ("null", False),
    ):
        assert accepts(table_of(words), grammar, call % arguments) is is_good


OPEN = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("schema", "arguments", "is_good"),
    [
        (OPEN, '{"a": 1}', True),
        (OPEN, '{"a": 1, "b": 2}', False),
        ({**OPEN, "additionalProperties": {"type": "integer"}}, '{"a": 1, "b": 2}', True),
        ({**OPEN, "patternProperties": {"^b$": {}}}, '{"b": 2}', True),
        ({"properties": {"in": OPEN}}, '{"in": {"b": 1}}', False),
        ({"properties": {"in": {"$ref": "#/$defs/o"}}, "$defs": {"o": OPEN}}, '{"in": {"b": 1}}', False),
        # what one schema does not name another may
        ({**OPEN, "anyOf": [{"properties": {"b": {"const": 2}}, "required": ["b"]}]}, '{"a": 1, "b": 2}', True),
        ({"allOf": [OPEN, {"properties": {"b": {"const": 2}}}]}, '{"a": 1, "b": 2}', True),
        ({"anyOf": [OPEN, {"properties": {"b": {"const": 2}}}]}, '{"b": 2}', True),
        ({"anyOf": [OPEN, {"properties": {"b": {"const": 2}}}]}, '{"c": 2}', False),
        ({**OPEN, "required": ["b"]}, '{"b": 2}', True),
        # a function without a schema has no arguments
        (None, "{}", True),
        (None, '{"a": 1}', False),
        ({}, '{"a": 1}', False),
        ({"type": "object"}, '{"a": 1}', True),
    ],
)
def test_arguments_that_a_function_does_not_have_are_not_written(schema, arguments, is_good):
    words = vocabulary()
    tools = [{"type": "function", "function": {"name": "get", "parameters": schema}}]
    grammar = tool_constraint(
        use(tools=tools, tool_choice="required"), TOOL_CALL_FORMATS["hermes"], words, None
    ).grammar
    call = f'<tool_call>\n{{"name": "get", "arguments": {arguments}}}\n</tool_call>'
    assert accepts(table_of(words), grammar, call) is is_good


def test_a_strict_tool_is_held_to_all_of_its_schema_or_refused():
    words = vocabulary()
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    tools = [{"type": "function", "function": {"name": "get", "parameters": schema, "strict": True}}]
    with pytest.raises(RequestError, match=r"^tools\.0\.function\.parameters\.properties\.a: .* uniqueItems"):
        tool_constraint(use(tools=tools), TOOL_CALL_FORMATS["hermes"], words, None)


def test_an_unknown_format_is_a_note_in_a_strict_tool_too():
    words = vocabulary()
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": "phone"}}}
    tools = [{"type": "function", "function": {"name": "get", "parameters": schema, "strict": True}}]
    table_of(words).check(tool_constraint(use(tools=tools), TOOL_CALL_FORMATS["hermes"], words, None).grammar)


@pytest.mark.parametrize("kind", ["string", ["array", "null"], None])
def test_arguments_that_are_no_object_are_refused(kind):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": kind}}}]
    with pytest.raises(RequestError, match=r"tools\.0\.function\.parameters\.type: .*'object'"):
        use(tools=tools)


def test_a_grammar_cannot_stand_beside_calls_that_begin_as_any_text_may():
    form = Constraint('start: "a"', "guided_grammar")
    with pytest.raises(RequestError, match="JSON"):
        tool_constraint(use(), TOOL_CALL_FORMATS["llama3_json"], vocabulary(), form)
    assert "%lark" in tool_constraint(use(), TOOL_CALL_FORMATS["hermes"], vocabulary(), form).grammar
