"""JSON and tool calls that cannot be invalid, from a small model that is made to babble."""

import json
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jsonschema
import openai
import pytest

from tests.serve_app.schemas import random_schema, random_tools, turns_with_calls

pytestmark = [pytest.mark.ray, pytest.mark.weights]

MODEL = "smollm2-135m-instruct"
CONCURRENCY = 16
TOOLS = random_tools(random.Random(6), 6)
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}

T = TypeVar("T")


def all_of(asks: Iterable[Callable[[], T]]) -> list[T]:
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return [future.result() for future in [pool.submit(ask) for ask in asks]]


def ask(client: openai.OpenAI, text: str, before: Any = (), **more: Any) -> Any:
    messages: Any = [*before, {"role": "user", "content": text}]
    return client.chat.completions.create(model=MODEL, messages=messages, temperature=1.5, **more)


def document(client: openai.OpenAI, schema: dict[str, Any], seed: int, *, stream: bool) -> tuple[str, str]:
    """An answer under a schema, and why it ended."""
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    answer = ask(client, "Tell me something.", response_format=form, seed=seed, max_tokens=128, stream=stream)
    if not stream:
        return answer.choices[0].message.content, answer.choices[0].finish_reason
    text, reason = "", ""
    for chunk in answer:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return text, reason


def assert_calls_are_valid(choices: list[Any]) -> int:
    """Every call but the one that a length cuts off. Returns how many there are."""
    num_calls = 0
    for choice in choices:
        calls = choice.message.tool_calls or []
        for call in calls[:-1] if choice.finish_reason == "length" else calls:
            jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
            num_calls += 1
    return num_calls


def test_every_finished_document_satisfies_its_schema(client: openai.OpenAI) -> None:
    schemas = [random_schema(random.Random(seed)) for seed in range(24)]
    answers = all_of(
        lambda seed=seed, schema=schema: document(client, schema, seed, stream=seed % 2 == 0)
        for seed, schema in enumerate(schemas)
    )
    num_finished = 0
    for schema, (text, reason) in zip(schemas, answers, strict=True):
        assert reason in ("stop", "length")
        if reason == "stop":
            jsonschema.validate(json.loads(text), schema)
            num_finished += 1
    assert num_finished >= 16


def test_every_forced_call_is_one_and_satisfies_its_parameters(client: openai.OpenAI) -> None:
    named = [{"type": "function", "function": {"name": name}} for name in SCHEMAS]
    choices = [
        answer.choices[0]
        for answer in all_of(
            lambda seed=seed: ask(
                client,
                "Do something useful.",
                tools=TOOLS,
                tool_choice="required" if seed % 2 else named[seed // 2 % len(named)],
                parallel_tool_calls=False,
                seed=seed,
                max_tokens=128,
            )
            for seed in range(40)
        )
    ]
    assert assert_calls_are_valid(choices) >= 20
    for seed, choice in enumerate(choices):
        assert choice.finish_reason in ("length", "tool_calls" if seed % 2 else "stop")
        if choice.finish_reason != "length":
            assert len(choice.message.tool_calls) == 1 and not choice.message.content
            assert seed % 2 or choice.message.tool_calls[0].function.name == list(SCHEMAS)[seed // 2 % len(named)]


def test_every_call_that_the_model_begins_itself_is_valid(client: openai.OpenAI) -> None:
    before, names = turns_with_calls(list(SCHEMAS)[:2]), list(SCHEMAS)
    choices = [
        answer.choices[0]
        for answer in all_of(
            lambda seed=seed: ask(
                client, f"Call {names[seed % 6]} now.", before, tools=TOOLS, seed=seed, max_tokens=128, top_p=0.6
            )
            for seed in range(20)
        )
    ]
    assert assert_calls_are_valid(choices) > 0
    assert all(choice.finish_reason in ("stop", "length", "tool_calls") for choice in choices)
