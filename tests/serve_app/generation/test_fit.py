"""structured_outputs.fit: what is accepted is finished, and valid, within its tokens."""

import json
import random

import jsonschema
import msgspec
import pytest

from configs.schema import ApiConfig
from engine.engine import Engine
from engine.runtime.async_engine import AsyncEngine
from engine.structured_output.grammar import GrammarError, TokenTable, Vocabulary
from engine.types import Fit, GenerateRequest, Grammar, SamplingParams, TokenSpan
from serve_app.api.constraint_fields import ConstraintFields
from serve_app.grammar.constraint import constraint_of
from serve_app.grammar.json_grammar import json_grammar
from serve_app.openai.output_format import structured_output_of
from serve_app.tools.formats import HARMONY, TOOL_CALL_FORMATS
from serve_app.tools.harmony_grammar import harmony_constraint
from serve_app.tools.tool_use import ToolUse
from tests.serve_app.chat.test_tools import WEATHER
from tests.serve_app.random_engine import random_engine, table_of
from tests.serve_app.schemas import random_schema
from tests.serve_app.scripted import build_app, chat, config, events, talking_to
from tests.serve_app.toy import toy_model

URL = "/v1/chat/completions"
END = 2
NODE = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 3},
        "size": {"type": "integer"},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 3},
    },
    "required": ["title", "parts"],
    "additionalProperties": False,
}
TREE = {"$defs": {"node": NODE}, "$ref": "#/$defs/node"}
FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": TREE}}
FIT = {"structured_outputs": {"fit": True}}


@pytest.fixture(scope="module")
def table() -> TokenTable:
    return table_of(toy_model())


def request(grammar: str, budget: int, seed: int = 0, n: int = 1, after: tuple[int, ...] = (), **sampling: object):
    params = SamplingParams(max_tokens=budget, seed=seed, stop_token_ids=(END,), **sampling)  # type: ignore[arg-type]
    fitted = Grammar(grammar, after, fit=Fit(budget))
    return GenerateRequest(
        request_id="r", model="toy", inputs=(TokenSpan((5, 6)),), sampling=params, grammar=fitted, n=n
    )


def outputs(engine: Engine, asked: GenerateRequest) -> dict[int, tuple[list[int], str]]:
    """Tokens and finish reason by choice."""
    tokens: dict[int, list[int]] = {}
    reasons = {}
    for chunk in engine.generate(asked):
        assert chunk.error is None
        tokens.setdefault(chunk.index, []).extend(chunk.tokens)
        if chunk.finish_reason is not None:
            reasons[chunk.index] = chunk.finish_reason
    return {index: (said, reasons[index]) for index, said in tokens.items()}


def text_of(tokens: list[int]) -> str:
    assert tokens[-1] == END
    return b"".join(toy_model().vocabulary.all_bytes[token] for token in tokens[:-1]).decode()


def test_random_schemas_are_finished_within_tiny_budgets(table: TokenTable) -> None:
    engine = random_engine(toy_model())
    rng = random.Random(7)
    for number in range(60):
        schema = random_schema(rng)
        grammar = json_grammar(schema, "x")
        fewest = len(table.short_completion(grammar))
        for budget in (fewest, fewest + 1, fewest + 3, fewest + 12, 3 * fewest):
            params = {"temperature": rng.choice([0.0, 1.0, 1.5]), "top_k": rng.choice([0, 3])}
            said, reason = outputs(engine, request(grammar, budget, seed=number, **params))[0]
            assert reason == "stop" and len(said) <= budget
            jsonschema.validate(json.loads(text_of(said)), schema)


def test_with_room_enough_an_answer_is_what_it_would_be(table: TokenTable) -> None:
    engine = random_engine(toy_model())
    grammar = json_grammar(TREE, "x")
    num_compared = 0
    for seed in range(12):
        fitted = request(grammar, 400, seed=seed)
        free = msgspec.structs.replace(fitted, grammar=Grammar(grammar))
        said, reason = outputs(engine, free)[0]
        if reason == "stop" and len(said) < 200:
            num_compared += 1
            assert outputs(engine, fitted)[0] == (said, reason)
    assert num_compared > 3


@pytest.mark.parametrize("extra", [0, 2, 9, 40])
def test_a_moved_answer_goes_on_exactly(table: TokenTable, extra: int) -> None:
    engine = random_engine(toy_model())
    grammar = json_grammar(TREE, "x")
    asked = request(grammar, len(table.short_completion(grammar)) + extra, seed=3, n=2)
    whole = outputs(engine, asked)
    assert whole[0][0] != whole[1][0] or extra < 9
    for cut in range(1, min(len(tokens) for tokens, _ in whole.values())):
        rest = msgspec.structs.replace(asked, resume=tuple(tuple(whole[i][0][:cut]) for i in range(2)))
        assert outputs(random_engine(toy_model()), rest) == {i: (whole[i][0][cut:], whole[i][1]) for i in range(2)}


@pytest.mark.parametrize("room", [0, 1, 7, 60])
def test_thinking_ends_while_there_is_room_for_the_answer(table: TokenTable, room: int) -> None:
    grammar = json_grammar(TREE, "x")
    closes = 3  # <tool_call> will do
    budget = 1 + len(table.short_completion(grammar)) + room
    for seed in range(10):
        said, reason = outputs(random_engine(toy_model()), request(grammar, budget, seed=seed, after=(closes,)))[0]
        assert reason == "stop" and len(said) <= budget
        answer = said[said.index(closes) + 1 :]
        jsonschema.validate(json.loads(text_of(answer)), TREE)


def test_a_budget_that_is_too_small_is_an_error(table: TokenTable) -> None:
    grammar = json_grammar(TREE, "x")
    fewest = len(table.short_completion(grammar))
    table.matcher(Grammar(grammar, fit=Fit(fewest)))
    for after in ((), (3,)):
        with pytest.raises(GrammarError):
            table.matcher(Grammar(grammar, after, Fit(fewest - 1 + len(after))))


def test_a_plan_that_does_not_belong_to_the_grammar_is_not_followed(table: TokenTable) -> None:
    grammar = json_grammar(TREE, "x")
    wrong, none = (table.matcher(Grammar(grammar, fit=Fit(99, plan))) for plan in ((5, 6, END), ()))
    assert wrong.enforce_output_budget(7) == none.enforce_output_budget(7) != 7


def test_the_shortest_ends_are_short(table: TokenTable) -> None:
    vocabulary = toy_model().vocabulary.all_bytes
    for schema, text in (
        ({"type": "object"}, "{}"),
        (TREE, '{"title":"the","parts":[]}'),
        ({"type": "array", "items": {"type": "integer", "minimum": 100}, "minItems": 2}, "[100,100]"),
        ({"enum": ["a long one", "short"]}, '"short"'),
        ({"type": "string", "pattern": "x[0-9]y"}, '"x0y"'),
        ({"properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "required": ["b"]}, '{"b":null}'),
    ):
        plan = table.short_completion(
            json_grammar({"type": "object", **schema} if "properties" in schema else schema, "x")
        )
        found = b"".join(vocabulary[token] for token in plan[:-1]).decode()
        jsonschema.validate(json.loads(found), schema)
        assert len(found) <= len(text), (found, text)


def test_special_tokens_stand_on_the_shortest_way() -> None:
    plain = toy_model().vocabulary
    markers = [marker.encode() for marker in (*HARMONY.markers, "<|start|>")]
    table = (*plain.all_bytes, *dict.fromkeys(markers))
    special = plain.special_ids | set(range(len(plain.all_bytes), len(table)))
    vocabulary = msgspec.structs.replace(plain, all_bytes=table, special_ids=special)
    form = constraint_of(structured_output_of(ConstraintFields.model_validate({"response_format": FORM})), ApiConfig())
    grammar = harmony_constraint(ToolUse([], {}, None, None), vocabulary, form).grammar
    plan = TokenTable(Vocabulary(table, tuple(sorted(special)), (END,)), len(table)).short_completion(grammar)
    text = b"".join(table[token] for token in plan[:-1]).decode()
    assert text.removeprefix("<|channel|>final<|message|>") == '{"title":"the","parts":[]}'


async def post(http, route: str = URL, **fields: object):
    body = chat(**fields) if route == URL else {"prompt": "x", **fields}
    return await http.post(route, json=body)


@pytest.fixture
async def http():
    client = AsyncEngine(random_engine(toy_model()))
    async with talking_to(build_app(client, config(), {"toy": toy_model()})) as http:
        yield http
    await client.close()


@pytest.mark.parametrize("route", [URL, "/v1/completions"])
@pytest.mark.parametrize(
    "form",
    [
        {"response_format": FORM, **FIT},
        {"structured_outputs": {"json": TREE, "fit": True}},
        {"guided_json": TREE, **FIT},
    ],
)
async def test_every_choice_of_a_request_is_whole(http, table, route, form) -> None:
    needed = (await post(http, route, max_tokens=1, **form)).json()["error"]["message"]
    fewest = next(int(word) for word in needed.split() if word.isdigit())
    for budget in (fewest, fewest + 4):
        fields = {"max_tokens": budget, "n": 3, "seed": 1, "temperature": 1.5, **form}
        body = (await post(http, route, **fields)).json()
        texts = [one["message"]["content"] if route == URL else one["text"] for one in body["choices"]]
        for choice, text in zip(body["choices"], texts, strict=True):
            assert choice["finish_reason"] == "stop"
            jsonschema.validate(json.loads(text), TREE)
        assert body["usage"]["completion_tokens"] <= 3 * budget
        told = events((await post(http, route, stream=True, **fields)).text)[:-1]
        for index, text in enumerate(texts):
            mine = [event["choices"][0] for event in told if event["choices"][0]["index"] == index]
            key = (lambda one: one["delta"].get("content") or "") if route == URL else (lambda one: one["text"])
            assert "".join(map(key, mine)) == text and mine[-1]["finish_reason"] == "stop"


async def test_any_object_fits_into_a_few_tokens(http) -> None:
    for budget in (3, 4, 6, 10):
        fields = {"response_format": {"type": "json_object"}, **FIT, "max_completion_tokens": budget}
        choice = (await post(http, **fields)).json()["choices"][0]
        assert choice["finish_reason"] == "stop" and isinstance(json.loads(choice["message"]["content"]), dict)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": FORM, **FIT, "max_tokens": 5}, "max_tokens"),
        ({"response_format": FORM, **FIT, "max_completion_tokens": 5}, "max_completion_tokens"),
        (FIT, "structured_outputs.fit"),
        ({"response_format": {"type": "text"}, **FIT}, "structured_outputs.fit"),
        ({"structured_outputs": {"regex": "a+", "fit": True}}, "structured_outputs.fit"),
        ({**FIT, "tools": [WEATHER]}, "structured_outputs.fit"),
        ({**FIT, "tools": [WEATHER], "tool_choice": "required", "max_tokens": 9}, "max_tokens"),
        ({"response_format": FORM, **FIT, "ignore_eos": True}, "ignore_eos"),
        ({"response_format": FORM, **FIT, "min_tokens": 2}, "min_tokens"),
        ({"response_format": FORM, **FIT, "stop_token_ids": [9]}, "stop_token_ids"),
        ({"response_format": FORM, **FIT, "max_tokens": 900}, "max_tokens"),
        ({"structured_outputs": {"json": TREE, "fit": "maybe"}}, "structured_outputs.fit"),
    ],
)
async def test_what_cannot_fit_is_refused_before_the_first_byte(http, fields, param, stream) -> None:
    answer = await post(http, stream=stream, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


async def test_a_prompt_leaves_less_room_for_the_answer(http) -> None:
    form = {"response_format": FORM, **FIT}
    answer = await post(http, text="x" * 455, **form)
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    answer = await post(http, text="x" * 475, **form)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "max_tokens"), answer.text


@pytest.mark.parametrize("format_", [name for name in TOOL_CALL_FORMATS if name != "harmony"])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "grow"}}])
async def test_a_forced_call_fits(format_, choice) -> None:
    model = toy_model(tool_call_format=TOOL_CALL_FORMATS[format_])
    client = AsyncEngine(random_engine(model))
    tool = {"type": "function", "function": {"name": "grow", "parameters": NODE}}
    tool["function"]["parameters"] = {**NODE, "properties": {**NODE["properties"], "parts": {"type": "boolean"}}}
    fields = {**FIT, "tools": [tool], "tool_choice": choice, "temperature": 1.5}
    async with talking_to(build_app(client, config(), {"toy": model})) as http:
        refusal = (await post(http, max_tokens=1, **fields)).json()["error"]
        if not isinstance(
            TOOL_CALL_FORMATS[format_].arguments, str
        ):  # free text between markers: no short end is found
            assert refusal["param"] == "structured_outputs.fit"
            await client.close()
            return
        fewest = next(int(word) for word in refusal["message"].split() if word.isdigit())
        for seed in range(4):
            body = (await post(http, max_tokens=fewest + seed * seed, seed=seed, **fields)).json()
            one = body["choices"][0]
            assert one["finish_reason"] == ("tool_calls" if choice == "required" else "stop")
            for call in one["message"]["tool_calls"]:
                schema = tool["function"]["parameters"]
                jsonschema.validate(json.loads(call["function"]["arguments"]), schema)
    await client.close()


async def test_beside_tools_the_document_still_fits(http) -> None:
    for seed in range(5):
        fields = {"response_format": FORM, **FIT, "tools": [WEATHER], "max_tokens": 70, "seed": seed}
        choice = (await post(http, **fields)).json()["choices"][0]
        assert choice["finish_reason"] in ("stop", "tool_calls")
        if choice["finish_reason"] == "stop":
            jsonschema.validate(json.loads(choice["message"]["content"]), TREE)
