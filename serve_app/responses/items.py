"""Input items: from the wire model of /v1/responses to neutral messages.

Reasoning, texts and calls that follow each other are one message of the assistant.
"""

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec

from engine.errors import RequestError
from serve_app.request.conversation import Message, ToolCall
from serve_app.responses.requests import InputItem, Part
from serve_app.tenants.sealing import open_sealed
from serve_app.text.json_text import parse_json

__all__ = ["CUSTOM_INPUT", "name_within", "neutral_messages", "with_ids", "with_instructions"]

CUSTOM_INPUT = "input"  # the one argument by which a custom tool is called
NO_OBJECT = "arguments"  # the key of arguments that are no JSON object
ROLES = ("system", "developer", "user", "assistant")
SETUP = ("system", "developer")
TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


def neutral_messages(items: Sequence[InputItem], seal_key: bytes, at: str) -> tuple[Message, ...]:
    """Raises RequestError that names the item. `at`: the field that has the items."""
    found: list[Message] = []
    for index, item in enumerate(items):
        message = _message(item, seal_key, f"{at}.{index}")
        if message.role == "assistant" and found and found[-1].role == "assistant":
            found[-1] = _joined(found[-1], message)
        else:
            found.append(message)
    return tuple(found)


def with_ids(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items, each with an id."""
    prefixes = {"message": "msg", "reasoning": "rs"}
    return [
        item if item.get("id") else {**item, "id": f"{prefixes.get(item['type'], 'item')}_{secrets.token_hex(12)}"}
        for item in items
    ]


def with_instructions(instructions: str | None, messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages behind the instructions; those of the system at the beginning are one, as templates want it."""
    texts = [instructions] if instructions else []
    start = 0
    while start < len(messages) and messages[start].role in SETUP:
        texts.append(messages[start].content)
        start += 1
    if start == 0 and not texts:
        return tuple(messages)
    role = messages[0].role if start == 1 and not instructions else "system"
    return (Message(role=role, content="\n".join(texts)), *messages[start:])


def name_within(namespace: str | None, name: str) -> str:
    """The name by which the model knows a tool."""
    return name if namespace is None else f"{namespace}__{name}"


def _message(item: InputItem, seal_key: bytes, at: str) -> Message:
    match item.type:
        case "message":
            return _text_message(item, at)
        case "function_call" | "custom_tool_call":
            return Message(role="assistant", content="", tool_calls=(_call(item, at),))
        case "function_call_output" | "custom_tool_call_output":
            return Message(role="tool", content=_text(item.output, f"{at}.output"), tool_call_id=_call_id(item, at))
        case "reasoning":
            return Message(role="assistant", content="", reasoning=_reasoning(item, seal_key, at))
    raise RequestError(f"{at}.type: this server does not read items of type {item.type[:40]!r}", param=f"{at}.type")


def _text_message(item: InputItem, at: str) -> Message:
    if item.role not in ROLES:
        raise RequestError(f"{at}.role: must be one of {', '.join(ROLES)}, not {item.role!r}", param=f"{at}.role")
    if item.content is None:
        raise RequestError(f"{at}.content: missing", param=f"{at}.content")
    return Message(role=item.role, content=_text(item.content, f"{at}.content"))


def _call(item: InputItem, at: str) -> ToolCall:
    if not item.name:
        raise RequestError(f"{at}.name: missing", param=f"{at}.name")
    name = name_within(item.namespace, item.name)
    if item.type == "custom_tool_call":
        return ToolCall(_call_id(item, at), name, {CUSTOM_INPUT: item.input or ""})
    arguments = item.arguments
    if not isinstance(arguments, dict):
        text = arguments or "{}"
        try:
            value = parse_json(text)
        except ValueError:
            value = text
        arguments = value if isinstance(value, dict) else {} if value is None else {NO_OBJECT: text}
    return ToolCall(_call_id(item, at), name, arguments)


def _call_id(item: InputItem, at: str) -> str:
    if not item.call_id:
        raise RequestError(f"{at}.call_id: missing", param=f"{at}.call_id")
    return item.call_id


def _reasoning(item: InputItem, seal_key: bytes, at: str) -> str:
    """Its text, or what is sealed, or its summary."""
    if text := _text(item.content, f"{at}.content"):
        return text
    sealed = open_sealed(item.encrypted_content, seal_key) if item.encrypted_content else None
    return sealed if sealed is not None else _text(item.summary, f"{at}.summary")


def _joined(first: Message, second: Message) -> Message:
    texts = [message.content for message in (first, second) if message.content]
    thoughts = [message.reasoning for message in (first, second) if message.reasoning]
    return msgspec.structs.replace(
        first,
        content="".join(texts),
        reasoning="".join(thoughts) or None,
        tool_calls=first.tool_calls + second.tool_calls,
    )


def _text(content: str | Sequence[Part] | None, at: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(_part_text(part, f"{at}.{index}") for index, part in enumerate(content))


def _part_text(part: Part, at: str) -> str:
    if part.type != "refusal" and part.type not in TEXTS:
        raise RequestError(f"{at}.type: this model reads text only, not {part.type[:40]!r}", param=f"{at}.type")
    text, field = (part.refusal, "refusal") if part.type == "refusal" else (part.text, "text")
    if text is None:
        raise RequestError(f"{at}.{field}: missing", param=f"{at}.{field}")
    return text
