"""Every format's text, cut everywhere."""

import json

import pytest

from serve_app.tools.argument_values import ArgumentWriter, python_value, tagged_value
from serve_app.tools.formats import HARMONY, TOOL_CALL_FORMATS, find_tool_call_format
from serve_app.tools.harmony_parser import HarmonyParser
from serve_app.tools.json_formats import GENERIC
from serve_app.tools.quoted_values import quoted_value
from serve_app.tools.tool_call_parser import ToolCallParser

NAMES = {"get_weather": {"properties": {"city": {"type": "string"}}}, "add": {}}
ARGUMENTS = '{"city": "Paris \\"x\\" {[é\\\\", "days": [1, {"a": null}], "t": -1.5e3}'
SECOND = '{"a": 1}'


def hermes(name, arguments, opens="<tool_call>\n", closes="\n</tool_call>"):
    return f'{opens}{{"name": "{name}", "arguments": {arguments}}}{closes}'


def deepseek_v3(name, arguments):
    return f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>"


def pythonic(name, arguments):
    values = {key: json.dumps(value, ensure_ascii=False) for key, value in json.loads(arguments).items()}
    written = ", ".join(f"{key}={value.replace('null', 'None')}" for key, value in values.items())
    return f"{name}({written})"


def tagged(name, arguments, call, field):
    fields = [
        (key, value if isinstance(value, str) else json.dumps(value)) for key, value in json.loads(arguments).items()
    ]
    return call.replace("NAME", name).replace(
        "FIELDS", "".join(field.replace("KEY", k).replace("VALUE", v) for k, v in fields)
    )


CODER = "<tool_call>\n<function=NAME>\nFIELDS</function>\n</tool_call>", "<parameter=KEY>\nVALUE\n</parameter>\n"
GLM = "<tool_call>NAME\nFIELDS</tool_call>", "<arg_key>KEY</arg_key>\n<arg_value>VALUE</arg_value>\n"
SEED = "<seed:tool_call>\n<function=NAME>\nFIELDS</function>\n</seed:tool_call>", "<parameter=KEY>VALUE</parameter>\n"
INVOKE = '<invoke name="NAME">\nFIELDS</invoke>', '<parameter name="KEY">VALUE</parameter>\n'
STEP = (
    '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="NAME">\nFIELDS'
    "</steptml:invoke><｜tool_call_end｜>",
    '<steptml:parameter name="KEY">VALUE</steptml:parameter>\n',
)
CHANNEL = "<|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>"

TWO_CALLS = {
    "hermes": hermes("get_weather", ARGUMENTS) + "\n" + hermes("add", SECOND),
    "generic": hermes("get_weather", ARGUMENTS) + hermes("add", SECOND),
    "llama3_json": f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}; {{"name": "add", "parameters": {SECOND}}}',
    "mistral": f"[TOOL_CALLS] [{hermes('get_weather', ARGUMENTS, '', '')}, {hermes('add', SECOND, '', '')}]",
    "mistral_v11": f"[TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}[TOOL_CALLS]add[ARGS]{SECOND}",
    "granite": f"<|tool_call|>[{hermes('get_weather', ARGUMENTS, '', '')}, {hermes('add', SECOND, '', '')}]",
    "phi4_mini_json": f"functools[{hermes('get_weather', ARGUMENTS, '', '')}, {hermes('add', SECOND, '', '')}]",
    "deepseek_v3": f"<｜tool▁calls▁begin｜>{deepseek_v3('get_weather', ARGUMENTS)}\n{deepseek_v3('add', SECOND)}"
    "<｜tool▁calls▁end｜>",
    "deepseek_v31": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
    f"{ARGUMENTS}<｜tool▁call▁end｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{SECOND}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
    f"{ARGUMENTS}<|tool_call_end|><|tool_call_begin|>functions.add:1<|tool_call_argument_begin|>{SECOND}"
    "<|tool_call_end|><|tool_calls_section_end|>",
}
TWO_CALLS["pythonic"] = f"[{pythonic('get_weather', ARGUMENTS)}, {pythonic('add', SECOND)}]"
TWO_CALLS["llama4_pythonic"] = f"<|python_start|>{TWO_CALLS['pythonic']}<|python_end|>"
TWO_CALLS["olmo3"] = (
    f"<function_calls>\n{pythonic('get_weather', ARGUMENTS)}\n{pythonic('add', SECOND)}\n</function_calls>"
)
TWO_CALLS["qwen3_coder"] = tagged("get_weather", ARGUMENTS, *CODER) + "\n" + tagged("add", SECOND, *CODER)
TWO_CALLS["glm45"] = tagged("get_weather", ARGUMENTS, *GLM) + "\n" + tagged("add", SECOND, *GLM)
TWO_CALLS["harmony"] = (
    CHANNEL.replace("NAME", "get_weather") + ARGUMENTS + "<|call|>" + CHANNEL.replace("NAME", "add") + SECOND
)
TWO_CALLS["lfm2"] = f"<|tool_call_start|>{TWO_CALLS['pythonic']}<|tool_call_end|>"
TWO_CALLS["glm47"] = TWO_CALLS["glm45"].replace("\n", "")
TWO_CALLS["longcat_fields"] = TWO_CALLS["glm45"].replace("<", "<longcat_").replace("<longcat_/", "</longcat_")
TWO_CALLS["seed_oss"] = tagged("get_weather", ARGUMENTS, *SEED) + "\n" + tagged("add", SECOND, *SEED)
TWO_CALLS["minimax_m2"] = (
    f"<minimax:tool_call>\n{tagged('get_weather', ARGUMENTS, *INVOKE)}\n{tagged('add', SECOND, *INVOKE)}\n"
    "</minimax:tool_call>"
)


def dsml(name, arguments):
    fields = "".join(
        f'<｜DSML｜parameter name="{key}" string="{str(isinstance(value, str)).lower()}">'
        f"{value if isinstance(value, str) else json.dumps(value)}</｜DSML｜parameter>\n"
        for key, value in json.loads(arguments).items()
    )
    return f'<｜DSML｜invoke name="{name}">\n{fields}</｜DSML｜invoke>'


TWO_CALLS["deepseek_v32"] = (
    f"<｜DSML｜function_calls>\n{dsml('get_weather', ARGUMENTS)}\n{dsml('add', SECOND)}\n</｜DSML｜function_calls>"
)
TWO_CALLS["deepseek_v4"] = TWO_CALLS["deepseek_v32"].replace("function_calls", "tool_calls")
TWO_CALLS["step3"] = (
    f"<｜tool_calls_begin｜>\n{tagged('get_weather', ARGUMENTS, *STEP)}\n{tagged('add', SECOND, *STEP)}\n"
    "<｜tool_calls_end｜>"
)


def quoted(value):
    """As Gemma 4 writes it."""
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, list):
        return f"[{','.join(map(quoted, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{quoted(one)}' for key, one in value.items())}}}"
    return json.dumps(value)


def gemma4(name, arguments):
    return f"<|tool_call>call:{name}{quoted(json.loads(arguments))}<tool_call|>"


TWO_CALLS["gemma4"] = gemma4("get_weather", ARGUMENTS) + gemma4("add", SECOND)
LIST = f"[{hermes('get_weather', ARGUMENTS, '', '')}, {hermes('add', SECOND, '', '')}]"
TWO_CALLS["xlam"] = LIST
TWO_CALLS["hunyuan_a13b"] = f"<tool_calls>{LIST}</tool_calls>"
TWO_CALLS["jamba"] = f"<tool_calls>[\n    {LIST[1:-1]}\n]</tool_calls>"
LONGCAT = "<longcat_tool_call>\n", "\n</longcat_tool_call>\n"
TWO_CALLS["longcat"] = hermes("get_weather", ARGUMENTS, *LONGCAT) + hermes("add", SECOND, *LONGCAT)
CODE = "<function_call> ", ""
TWO_CALLS["granite-20b-fc"] = hermes("get_weather", ARGUMENTS, *CODE) + hermes("add", SECOND, *CODE)
PLUGIN = "<|action_start|><|plugin|>\n", "<|action_end|>\n"
TWO_CALLS["internlm"] = hermes("get_weather", ARGUMENTS, *PLUGIN) + hermes("add", SECOND, *PLUGIN)
TWO_CALLS["cohere_command3"] = (
    f'<|START_ACTION|>[\n    {{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {ARGUMENTS}}},\n'
    f'    {{"tool_call_id": "1", "tool_name": "add", "parameters": {SECOND}}}\n]<|END_ACTION|>'
)
# what comes is not what was written
REWRITTEN = (
    *("pythonic", "llama4_pythonic", "olmo3", "lfm2", "qwen3_coder", "glm45", "glm47"),
    *("seed_oss", "minimax_m2", "deepseek_v32", "deepseek_v4", "step3", "gemma4", "longcat_fields"),
)
MISTRAL_NEW = f"[TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}[TOOL_CALLS]add[CALL_ID]abc123def[ARGS]{SECOND}"
FORMATS = TOOL_CALL_FORMATS


def parse(format_, pieces, **options):
    """(content, [[name, arguments], ...]); checks what holds for any stream."""
    if format_ is HARMONY:
        parser = HarmonyParser(NAMES, "before", options.get("max_calls"))
    else:
        parser = ToolCallParser(format_, NAMES, **options)
    content, calls, ids = "", [], []
    for said in [*(parser.push(piece) for piece in pieces), parser.flush()]:
        content += said.content
        for piece in said.tool_calls:
            if piece.name is not None:
                assert piece.index == len(calls) and piece.arguments == "" and piece.id
                calls.append([piece.name, ""])
                ids.append(piece.id)
            else:
                assert piece.index == len(calls) - 1 and piece.id is None and piece.arguments
                calls[-1][1] += piece.arguments
    assert len(set(ids)) == len(ids)
    if format_.name in REWRITTEN:
        calls = [[name, written_anew(arguments)] for name, arguments in calls]
    return content, calls


def written_anew(arguments):
    """The same in the writing of these tests."""
    return next((one for one in (ARGUMENTS, SECOND) if json.loads(one) == json.loads(arguments)), arguments)


def cuts_of(text):
    """The text whole, in characters, and cut at every place into two and three pieces."""
    yield [text]
    yield list(text)
    for cut in range(len(text)):
        yield [text[:cut], text[cut:]]
        yield [text[:cut], text[cut : cut + 3], text[cut + 3 :]]


@pytest.mark.parametrize("name", FORMATS)
def test_two_calls_come_out_however_the_text_is_cut(name):
    for pieces in cuts_of(TWO_CALLS[name]):
        assert parse(FORMATS[name], pieces) == ("", [["get_weather", ARGUMENTS], ["add", SECOND]]), pieces


def test_mistrals_newer_calls_come_out_however_the_text_is_cut():
    for pieces in cuts_of(MISTRAL_NEW):
        assert parse(FORMATS["mistral"], pieces) == ("", [["get_weather", ARGUMENTS], ["add", SECOND]]), pieces


@pytest.mark.parametrize("name", [name for name in FORMATS if not FORMATS[name].bare])
def test_text_around_the_calls_is_content(name):
    text = f"Let me look.\n{TWO_CALLS[name]}"
    expected = "Let me look.\n", [["get_weather", ARGUMENTS], ["add", SECOND]]
    for pieces in cuts_of(text):
        assert parse(FORMATS[name], pieces) == expected, pieces


def test_text_after_a_call_is_content():
    text = hermes("add", SECOND) + "\nDone. " + hermes("add", "{}")
    for pieces in cuts_of(text):
        assert parse(GENERIC, pieces) == ("\nDone. ", [["add", SECOND], ["add", "{}"]]), pieces


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", "no call here, 1 < 2 <tool_cal"),
        ("hermes", "<tool_call>"),
        ("hermes", "  <tool_call> soon"),
        ("hermes", '<tool_call>{"name": "nobody", "arguments": {}}</tool_call> tail'),
        ("hermes", '<tool_call>{"arguments": {"a": 1}}</tool_call>'),
        ("hermes", '<tool_call>{"name": 5}</tool_call>'),
        ("hermes", "<tool_call>{name: add}</tool_call>"),
        ("hermes", '<tool_call>{"na'),
        ("hermes", "<tool_call></tool_call>"),
        ("llama3_json", '{"a": 1, "b": [2]}'),
        ("llama3_json", '  {"name": "Ada", "born": 1815}'),
        ("llama3_json", 'text {"name": "add", "parameters": {}}'),
        ("llama3_json", "<|python_tag|>print(1)"),
        ("mistral", "[TOOL_CALLS]nobody[ARGS]{}"),
        ("mistral", "[TOOL_CALLS]hm"),
        ("kimi_k2", "<|tool_calls_section_begin|>"),
        ("pythonic", "[1, 2, add(a=1)]"),
        ("pythonic", "[nobody(a=1)]"),
        ("pythonic", "[add"),
        ("pythonic", " [adder(1)]"),
        ("pythonic", "see [add(a=1)]"),
        ("olmo3", "<function_calls>nobody(a=1)</function_calls>"),
        ("qwen3_coder", "<tool_call>\n<function=nobody>\n</function>\n</tool_call>"),
        ("qwen3_coder", "a <function is"),
        ("glm45", "<tool_call>nobody\n</tool_call>"),
        ("glm45", "<tool_call>nobody</tool_call>"),
        ("minimax_m2", '<minimax:tool_call>\n<invoke name="nobody">\n</invoke>\n</minimax:tool_call>'),
        ("minimax_m2", '<invoke name="'),
        ("deepseek_v32", '<｜DSML｜function_calls>\n<｜DSML｜invoke name="nobody">\n</｜DSML｜invoke>'),
        ("lfm2", "<|tool_call_start|>[nobody(a=1)]<|tool_call_end|>"),
        ("gemma4", "<|tool_call>call:nobody{a:1}<tool_call|>"),
        ("gemma4", "<|tool_call>call"),
        ("xlam", '[{"a": 1}]'),
        ("xlam", "[1, 2]"),
        ("cohere_command3", '<|START_ACTION|>[{"tool_name": "nobody", "parameters": {}}]<|END_ACTION|>'),
        ("internlm", "<|action_start|><|plugin|>\nprint(1)<|action_end|>"),
    ],
)
def test_what_is_no_call_is_content_to_the_last_byte(name, text):
    for pieces in cuts_of(text):
        assert parse(FORMATS[name], pieces) == (text, []), pieces


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{"name": "add"}', "{}"),
        ('{"name": "add", "arguments": null}', "{}"),
        ('{"name": "add", "arguments": ""}', "{}"),
        ('{"name": "add", "arguments": "{\\"a\\": 1}"}', SECOND),
        ('{"arguments": {"a": 1}, "name": "add"}', SECOND),
        ('{"type": "function", "id": 7, "name": "add", "arguments": {"a": 1}, "x": [1, "}"]}', SECOND),
        ('{ "name" : "add" , "parameters" : {"a": 1} }', SECOND),
        ('{"name":"add","arguments":{}}', "{}"),
        ('{"name":"\\u0061dd","arguments":[]}', "[]"),
    ],
)
def test_objects_of_every_writing_are_read(written, arguments):
    for pieces in cuts_of(f"<tool_call>{written}</tool_call>"):
        assert parse(GENERIC, pieces) == ("", [["add", arguments]]), pieces


def test_arguments_come_out_while_they_are_written():
    parser = ToolCallParser(GENERIC, NAMES)
    parser.push('<tool_call>{"name": "add", "arguments": {"a"')
    assert [piece.arguments for piece in parser.push(": 1").tool_calls] == [": 1"]
    assert not parser.is_complete
    parser.push("}}")
    assert parser.is_complete


def test_calls_beyond_the_first_are_dropped_where_only_one_may_be():
    for pieces in cuts_of(TWO_CALLS["hermes"]):
        assert parse(FORMATS["hermes"], pieces, max_calls=1) == ("", [["get_weather", ARGUMENTS]])


def test_a_call_that_is_cut_off_keeps_what_it_said():
    text = hermes("add", SECOND)[:-16]
    content, calls = parse(GENERIC, list(text))
    assert content == "" and calls[0][0] == "add" and SECOND.startswith(calls[0][1])


def test_mistral_ids_have_nine_letters_and_digits():
    parser = ToolCallParser(FORMATS["mistral"], NAMES)
    id_ = parser.push(TWO_CALLS["mistral"]).tool_calls[0].id
    assert len(id_) == 9 and id_.isalnum()


def test_the_arguments_in_these_tests_are_json():
    assert json.loads(ARGUMENTS)["days"] == [1, {"a": None}]


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ('{% if tools %}...<tool_call>\n{"name": ...}</tool_call>', "hermes"),
        ("{% if tools %}[AVAILABLE_TOOLS]...[TOOL_CALLS]", "mistral"),
        ('{{ tools }} {"name": function name, "parameters": ...} ipython <|python_tag|>', "llama3_json"),
        ("{{ tools }}<tool_call><function=x>", "generic"),
        ("{{ tools }}<tool_call><function=x><parameter=y>", "qwen3_coder"),
        ("{{ tools }}<tool_call>f<arg_key>a</arg_key><arg_value>", "glm45"),
        ("{{ tools }}<|start|>assistant<|channel|>final<|message|>", "harmony"),
        ("{{ tools }}<|python_start|>[f(a=1)]<|python_end|>", "llama4_pythonic"),
        ("{{ tools }}<function_calls>", "olmo3"),
        ("{{ tools }}<tool_call>{function-name}<arg_key>{arg-key-1}</arg_key><arg_value>", "glm47"),
        ("{{ tools }}<seed:tool_call>\n<function=f>\n<parameter=p>v</parameter>", "seed_oss"),
        ('{{ tools }}<minimax:tool_call>\n<invoke name="f">', "minimax_m2"),
        ('{{ tools }}<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">', "deepseek_v32"),
        ('{{ tools }}<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">', "deepseek_v4"),
        ('{{ tools }}<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="f">', "step3"),
        ("{{ tools }}'<|tool_call>call:' + name + '{' ... '}<tool_call|>'", "gemma4"),
        ("List of tools: <|tool_list_start|>{{ tools }}<|tool_list_end|>", "lfm2"),
        ('{{ tools }}<tool_calls>[{"name": "f"}]</tool_calls>', "hunyuan_a13b"),
        ("{{ tools }}<|START_ACTION|>[", "cohere_command3"),
        ("{{ tools }}<|im_start|>system name=<|plugin|><|action_start|>", "internlm"),
        ("{{ tools }}'<function_call> '", "granite-20b-fc"),
        ("{{ tools }} make calls in a single JSON array: [", "xlam"),
        ("{{ tools }}<longcat_tool_call>", "longcat"),
        ("{{ tools }}<longcat_tool_call><longcat_arg_key>", "generic"),
        (
            "{{ tools }}<longcat_tool_call>f\n<longcat_arg_key>a</longcat_arg_key>\n<longcat_arg_value>",
            "longcat_fields",
        ),
        ("{{ messages }}", "generic"),
    ],
)
def test_the_format_is_found_in_the_template(template, name):
    assert find_tool_call_format(template).name == name


THINKING = (
    "<|channel|>analysis<|message|>Hm, a < b.<|end|><|start|>assistant<|channel|>final<|message|>Hello.<|return|>"
)


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        (THINKING, "before", ("Hm, a < b.", "Hello.", [])),
        (THINKING.removeprefix("<|channel|>analysis<|message|>"), "inside", ("Hm, a < b.", "Hello.", [])),
        ("Hello.", "after", ("", "Hello.", [])),
        ("to be or not", "before", ("", "to be or not", [])),
        (
            "<|channel|>commentary<|message|>I look.<|end|>" + CHANNEL.replace("NAME", "add") + SECOND + "<|call|>",
            "before",
            ("", "I look.", [["add", SECOND]]),
        ),
        (f" to=functions.add<|channel|>commentary json<|message|>{SECOND}", "before", ("", "", [["add", SECOND]])),
        (CHANNEL.replace("NAME", "nobody") + "{}", "before", ("", "{}", [])),
    ],
)
def test_channels_are_told_apart_however_the_text_is_cut(text, place, expected):
    for pieces in cuts_of(text):
        parser = HarmonyParser(NAMES, place, None)
        said = [*(parser.push(piece) for piece in pieces), parser.flush()]
        calls = []
        for piece in (piece for one in said for piece in one.tool_calls):
            calls += [[piece.name, ""]] if piece.name is not None else []
            calls[-1][1] += piece.arguments
        told = "".join(one.reasoning for one in said), "".join(one.content for one in said), calls
        assert told == expected, pieces
        assert parser.is_complete is bool(calls)


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "5", "5"),
        ({"type": "string"}, '"x"', '"x"'),
        ({"type": "string", "pattern": "x"}, '"x"', "x"),
        ({"type": "string", "pattern": "x"}, "x", "x"),
        ({"type": "integer"}, "5", 5),
        ({"type": ["string", "integer"]}, "5", 5),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "null"]}, "5", "5"),
        ({"type": "boolean"}, "True", True),
        ({"type": "array"}, "['a', (1, 2)]", ["a", (1, 2)]),
        (True, "1e999", "1e999"),
        (True, "{1, 2}", "{1, 2}"),
        (True, "[" * 5000, "[" * 5000),
    ],
)
def test_values_between_tags_are_what_the_schema_says(schema, text, value):
    assert tagged_value(text, schema) == value


@pytest.mark.parametrize(("is_text", "value"), [("true", '"5"'), ("false", "5")])
def test_a_tag_says_whether_a_value_is_a_string(is_text, value):
    field = f'<｜DSML｜parameter name="z" string="{is_text}">5</｜DSML｜parameter>'
    text = f'<｜DSML｜invoke name="add">{field}</｜DSML｜invoke>'
    for pieces in cuts_of(text):
        assert parse(FORMATS["deepseek_v32"], pieces) == ("", [["add", f'{{"z": {value}}}']])


def test_a_line_break_within_a_value_stays():
    text = tagged("get_weather", '{"city": "\\na\\n\\n"}', *CODER)
    for pieces in cuts_of(text):
        assert parse(FORMATS["qwen3_coder"], pieces) == ("", [["get_weather", '{"city": "\\na\\n\\n"}']])


def test_calls_without_arguments_are_read_in_every_format():
    for name, text in {
        "pythonic": "[add()]",
        "olmo3": "<function_calls>\nadd()\n</function_calls>",
        "qwen3_coder": "<tool_call>\n<function=add>\n</function>\n</tool_call>",
        "glm45": "<tool_call>add</tool_call>",
        "glm47": "<tool_call>add</tool_call>",
        "gemma4": "<|tool_call>call:add{}<tool_call|>",
        "longcat_fields": "<longcat_tool_call>add</longcat_tool_call>",
        "lfm2": "<|tool_call_start|>[add()]<|tool_call_end|>",
        "seed_oss": "<seed:tool_call>\n<function=add>\n</function>\n</seed:tool_call>",
        "minimax_m2": '<minimax:tool_call>\n<invoke name="add">\n</invoke>\n</minimax:tool_call>',
        "step3": TWO_CALLS["step3"].partition("<steptml")[0] + '<steptml:invoke name="add"></steptml:invoke>',
    }.items():
        for pieces in cuts_of(text):
            assert parse(FORMATS[name], pieces) == ("", [["add", "{}"]]), (name, pieces)


@pytest.mark.parametrize("number", ["12345678901234567890", "12345678901234567890.5", "0.1", "-1.5e300"])
def test_numbers_of_arguments_keep_their_digits(number):
    writer = ArgumentWriter()
    for name, value in {
        "tagged": tagged_value(number, {"type": "number"}),
        "listed": tagged_value(f"[{number}]", {"type": "array"}),
        "python": python_value(number),
    }.items():
        assert number.replace("e3", "e+3") in writer.member(name, value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('<|"|>a "b", {c:1}] \\<|"|>', 'a "b", {c:1}] \\'),
        ('{k:<|"|>v<|"|>, <|"|>q r<|"|>:[true,null, -1.50]}', {"k": "v", "q r": [True, None, -1.5]}),
        ('{"k": "v\\"}"}', {"k": 'v"}'}),
        ("[]", []),
        ("{}", {}),
        ("bare words", "bare words"),
        ("[1", "[1"),
        ("NaN", "NaN"),
    ],
)
def test_values_in_quotes_of_the_models_own_are_read(text, value):
    assert quoted_value(text, '<|"|>', True) == value


def test_a_scalar_is_text_where_the_schema_says_so():
    assert quoted_value("75001", '<|"|>', {"type": "string"}) == "75001"
    assert quoted_value("75001", '<|"|>', {"type": "integer"}) == 75001
