"""One conversation gives the same tokens through chat, responses and messages, streamed and whole.

The engine samples with its real sampler from random logits; what each API asks of it, and makes of the tokens, is
compared over the features that all have. Where an API lacks one, its case is left out.
"""

import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.runtime.async_engine import AsyncEngine
from engine.types import EngineStatus, GenerateRequest, RequestOutput
from tests.serve_app.messages.event_order import checked_message
from tests.serve_app.messages.event_order import typed_events as message_events
from tests.serve_app.random_engine import random_engine
from tests.serve_app.responses.event_order import checked_response, typed_events
from tests.serve_app.scripted import build_app, config, events, talking_to
from tests.serve_app.toy import toy_model

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
TEMPLATE = (
    "{% if tools %}{% for tool in tools %}{{ tool.function.name }}: {{ tool.function.parameters | tojson }}\n"
    '{% endfor %}<tool_call>{"name": ..., "arguments": ...}</tool_call>\n{% endif %}'
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.reasoning %}<think>{{ message.reasoning }}</think>{% endif %}{{ message.content }}"
    "{% for call in message.tool_calls %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "{{ message.tool_call_id }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% else %}<think>{% endif %}{% endif %}"
)
MODEL = toy_model(template=TEMPLATE, max_model_len=4096)
TOOL_CHOICES = ("auto", "none", "required", "named")


class RecordingClient:
    """Remembers what was asked of the engine, and the tokens that it gave."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.asked: list[GenerateRequest] = []
        self.tokens: list[list[int]] = []

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput]:
        self.asked.append(request)
        tokens: list[int] = []
        self.tokens.append(tokens)
        async for chunk in self._engine.generate(request):
            tokens += chunk.tokens
            yield chunk

    def stop_choice(self, request_id: str, index: int) -> None:
        self._engine.stop_choice(request_id, index)

    async def status(self, model: str) -> EngineStatus:
        return await self._engine.status(model)


class Case(msgspec.Struct, frozen=True):
    """A conversation, and the features of a request."""

    system: str
    turns: tuple[str, ...]  # of user and assistant in turn
    thought: str  # of the assistant's turns
    has_result: bool  # a tool was called, and has answered
    tool_choice: str | None  # None: no tools
    is_parallel: bool
    has_format: bool
    thinks: bool | None
    budget: int | None
    stop: str | None
    temperature: float
    seed: int
    max_tokens: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    texts = st.text("abc <é\n", min_size=1, max_size=12)
    tool_choice = draw(st.none() | st.sampled_from(TOOL_CHOICES))
    thinks = draw(st.sampled_from([None, False, False, True]))
    max_tokens = draw(st.sampled_from([6, 40, 160, 160]))  # a call takes some 80
    return Case(
        system=draw(st.just("") | texts),
        turns=tuple(draw(st.lists(texts, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2 == 1))),
        thought=draw(st.just("") | texts),
        has_result=draw(st.booleans()),
        tool_choice=tool_choice,
        is_parallel=draw(st.booleans()),
        has_format=draw(st.booleans()) and tool_choice not in ("required", "named"),
        thinks=thinks,
        budget=draw(st.integers(1, min(max_tokens - 1, 20))) if thinks else None,
        stop=draw(st.none() | st.sampled_from(["a", "zz", "é"])),
        temperature=draw(st.sampled_from([0.0, 0.7, 1.0])),
        seed=draw(st.integers(0, 99)),
        max_tokens=max_tokens,
    )


def chat_body(case: Case) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": case.system}] if case.system else []
    for index, text in enumerate(case.turns):
        messages.append({"role": "assistant" if index % 2 else "user", "content": text})
        if index % 2 and case.thought:
            messages[-1]["reasoning"] = case.thought
    if case.has_result:
        call = {"id": "c1", "type": "function", "function": {"name": "plan", "arguments": '{"city": "x"}'}}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "content": "done", "tool_call_id": "c1"})
    body: dict[str, Any] = {"messages": messages, "max_tokens": case.max_tokens, **sampling(case)}
    if case.stop:
        body["stop"] = [case.stop]
    if case.thinks is not None:
        body["reasoning"] = {"enabled": case.thinks}
    if case.budget is not None:
        body["thinking_token_budget"] = case.budget
    if case.has_format:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    if case.tool_choice is not None:
        body["tools"] = [{"type": "function", "function": {"name": "plan", "parameters": SCHEMA}}]
        body["parallel_tool_calls"] = case.is_parallel
        named = {"type": "function", "function": {"name": "plan"}}
        body["tool_choice"] = named if case.tool_choice == "named" else case.tool_choice
    return body


def responses_body(case: Case) -> dict[str, Any]:
    items: list[dict[str, Any]] = []
    for index, text in enumerate(case.turns):
        if index % 2 and case.thought:
            part = {"type": "reasoning_text", "text": case.thought}
            items.append({"type": "reasoning", "id": "rs", "summary": [], "content": [part]})
        items.append({"role": "assistant" if index % 2 else "user", "content": text})
    if case.has_result:
        items.append({"type": "function_call", "call_id": "c1", "name": "plan", "arguments": '{"city": "x"}'})
        items.append({"type": "function_call_output", "call_id": "c1", "output": "done"})
    body: dict[str, Any] = {"input": items, "max_output_tokens": case.max_tokens, **sampling(case)}
    if case.system:
        body["instructions"] = case.system
    if case.stop:
        body["stop"] = [case.stop]
    if case.thinks is False:
        body["reasoning"] = {"effort": "none"}
    if case.budget is not None:
        body["reasoning"] = {"max_tokens": case.budget}
    if case.has_format:
        body["text"] = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
    if case.tool_choice is not None:
        body["tools"] = [{"type": "function", "name": "plan", "parameters": SCHEMA}]
        body["parallel_tool_calls"] = case.is_parallel
        named = {"type": "function", "name": "plan"}
        body["tool_choice"] = named if case.tool_choice == "named" else case.tool_choice
    return body


def messages_body(case: Case) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    for index, text in enumerate(case.turns):
        blocks: list[dict[str, Any]] = [{"type": "text", "text": text}]
        if index % 2 and case.thought:
            blocks.insert(0, {"type": "thinking", "thinking": case.thought, "signature": "s"})
        messages.append({"role": "assistant" if index % 2 else "user", "content": blocks})
    if case.has_result:
        call = {"type": "tool_use", "id": "c1", "name": "plan", "input": {"city": "x"}}
        messages.append({"role": "assistant", "content": [call]})
        result = {"type": "tool_result", "tool_use_id": "c1", "content": "done"}
        messages.append({"role": "user", "content": [result]})
    body: dict[str, Any] = {"messages": messages, "max_tokens": case.max_tokens, **sampling(case)}
    if case.system:
        body["system"] = case.system
    if case.stop:
        body["stop_sequences"] = [case.stop]
    if case.thinks is not None:
        body["thinking"] = {"type": "adaptive" if case.thinks else "disabled"}
    if case.budget is not None:
        body["thinking"] = {"type": "enabled", "budget_tokens": case.budget}
    if case.has_format:
        body["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
    if case.tool_choice is not None:
        body["tools"] = [{"name": "plan", "input_schema": SCHEMA}]
        kind = {"required": "any", "named": "tool"}.get(case.tool_choice, case.tool_choice)
        body["tool_choice"] = {"type": kind} | ({"name": "plan"} if kind == "tool" else {})
        body["tool_choice"] |= {"disable_parallel_tool_use": not case.is_parallel}
    return body


def sampling(case: Case) -> dict[str, Any]:
    return {"temperature": case.temperature, "top_p": 0.95, "top_k": 40, "seed": case.seed}


class Said(msgspec.Struct):
    """What an API has made of the tokens."""

    reasoning: str
    text: str
    calls: list[Any]  # name and arguments; {} for arguments that were cut
    is_cut: bool
    tokens: tuple[int, int]  # of prompt and answer


def arguments_of(text: str) -> dict[str, Any]:
    try:
        return json.loads(text)
    except ValueError:
        return {}


def of_chat(answer: httpx2.Response, stream: bool) -> Said:
    if stream:
        *told, usage, _ = events(answer.text)
        choices = [event["choices"][0] for event in told]
        deltas = [choice["delta"] for choice in choices]
        calls: list[list[str]] = []
        for piece in (call for delta in deltas for call in delta.get("tool_calls", ())):
            if "id" in piece:
                calls.append([piece["function"]["name"], ""])
            calls[-1][1] += piece["function"]["arguments"]
        text = "".join(delta.get("content", "") for delta in deltas)
        reasoning = "".join(delta.get("reasoning", "") for delta in deltas)
        finish, usage = choices[-1]["finish_reason"], usage["usage"]
    else:
        body = answer.json()
        message, usage = body["choices"][0]["message"], body["usage"]
        calls = [[call["function"]["name"], call["function"]["arguments"]] for call in message.get("tool_calls", ())]
        text, reasoning = message["content"] or "", message.get("reasoning", "")
        finish = body["choices"][0]["finish_reason"]
    counts = usage["prompt_tokens"], usage["completion_tokens"]
    return Said(reasoning, text, [[name, arguments_of(given)] for name, given in calls], finish == "length", counts)


def of_responses(answer: httpx2.Response, stream: bool) -> Said:
    body = checked_response(typed_events(answer.text)) if stream else answer.json()
    parts = [(item["type"], part["text"]) for item in body["output"] for part in item.get("content", ())]
    return Said(
        "".join(text for kind, text in parts if kind == "reasoning"),
        "".join(text for kind, text in parts if kind == "message"),
        [[i["name"], arguments_of(i["arguments"])] for i in body["output"] if i["type"] == "function_call"],
        body["status"] == "incomplete",
        (body["usage"]["input_tokens"], body["usage"]["output_tokens"]),
    )


def of_messages(answer: httpx2.Response, stream: bool) -> Said:
    if stream:
        told = message_events(answer.text)
        _replace_cut_arguments(told)
        body = checked_message(told)
    else:
        body = answer.json()
    blocks = body["content"]
    usage = body["usage"]
    return Said(
        "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        "".join(block["text"] for block in blocks if block["type"] == "text"),
        [[block["name"], block["input"]] for block in blocks if block["type"] == "tool_use"],
        body["stop_reason"] == "max_tokens",
        (usage["input_tokens"] + usage["cache_read_input_tokens"], usage["output_tokens"]),
    )


def _replace_cut_arguments(told: list[dict[str, Any]]) -> None:
    """By {}, as the checker reads whole arguments only."""
    deltas: dict[int, list[dict[str, Any]]] = {}
    for event in told:
        if event["type"] == "content_block_delta" and event["delta"]["type"] == "input_json_delta":
            deltas.setdefault(event["index"], []).append(event["delta"])
    for first, *rest in deltas.values():
        if not arguments_of("".join(delta["partial_json"] for delta in (first, *rest))):
            first["partial_json"] = "{}"
            for delta in rest:
                delta["partial_json"] = " "


APIS = (
    ("/v1/chat/completions", chat_body, of_chat),
    ("/v1/responses", responses_body, of_responses),
    ("/v1/messages", messages_body, of_messages),
)


@settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
@given(case=cases())
async def test_one_conversation_gives_the_same_tokens_through_all_apis(case: Case) -> None:
    engine = AsyncEngine(random_engine(MODEL))
    client = RecordingClient(engine)
    said = []
    try:
        async with talking_to(build_app(client, config(), {"toy": MODEL})) as http:
            for path, body_of, read in APIS:
                for stream in (False, True):
                    body = body_of(case) | {"stream": stream}
                    if stream and body_of is chat_body:
                        body["stream_options"] = {"include_usage": True}
                    answer = await http.post(path, json=body)
                    assert answer.status_code == 200, (path, answer.text)
                    said.append(read(answer, stream))
    finally:
        await engine.close()
    asked = [msgspec.structs.replace(one, request_id="", session="") for one in client.asked]
    assert all(one == asked[0] for one in asked)
    assert all(tokens == client.tokens[0] for tokens in client.tokens)
    # a thought that is switched off is not sent by messages; the template has ended it here
    assert all(one == said[0] for one in said), said
