"""Adapter of messages: wire messages to neutral ones, with content as one string and arguments as objects."""

from collections.abc import Sequence
from typing import Any

from engine.errors import RequestError
from serve_app.api import requests as wire
from serve_app.request.conversation import Message, ToolCall
from serve_app.text.json_text import parse_json

__all__ = ["neutral_messages"]

# type of a part -> the field that has its text
TEXT_OF = {
    "text": "text",
    "input_text": "text",  # the names of /v1/responses
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
MAY_BE_SILENT = {"assistant", "tool", "function"}  # may have no content
NO_OBJECT = "arguments"  # the key of arguments that are no JSON object


def neutral_messages(messages: Sequence[wire.Message]) -> tuple[Message, ...]:
    """Raises RequestError that names the message."""
    found: list[Message] = []
    called = ""  # the id made for the last call without one; nine digits, as Mistral's templates require
    for index, message in enumerate(messages):
        called = f"{index:09}" if message.function_call is not None else called
        found.append(_message(message, f"messages.{index}", called))
    return tuple(found)


def _message(message: wire.Message, at: str, called: str) -> Message:
    if message.content is None and message.role not in MAY_BE_SILENT:
        raise RequestError(f"{at}.content: a message of role {message.role!r} needs content", param=f"{at}.content")
    content = message.content if message.content is not None else message.refusal
    text = _text(content, f"{at}.content")
    if message.role == "function":
        return Message(role="tool", content=text, name=message.name, tool_call_id=called)
    if message.role != "assistant":
        return Message(role=message.role, content=text, name=message.name, tool_call_id=message.tool_call_id)
    return Message(
        role=message.role,
        content=text,
        name=message.name,
        tool_call_id=message.tool_call_id,
        reasoning=message.reasoning if message.reasoning is not None else message.reasoning_content,
        tool_calls=_calls(message, called),
    )


def _calls(message: wire.Message, called: str) -> tuple[ToolCall, ...]:
    if message.tool_calls:
        return tuple(_call(call.id or "", call.function) for call in message.tool_calls)
    return (_call(called, message.function_call),) if message.function_call is not None else ()


def _call(id_: str, function: wire.FunctionCall) -> ToolCall:
    """Templates read arguments as an object. Text that is none is passed on under NO_OBJECT."""
    arguments = function.arguments
    return ToolCall(id_, function.name, _arguments(arguments) if isinstance(arguments, str) else arguments)


def _arguments(text: str) -> dict[str, Any]:
    try:
        value = parse_json(text or "{}")
    except ValueError:
        return {NO_OBJECT: text}
    if value is None:  # some clients send null for no arguments
        return {}
    return value if isinstance(value, dict) else {NO_OBJECT: text}


def _text(content: str | list[wire.TextPart] | None, at: str) -> str:
    if isinstance(content, list):
        return "\n".join(_part_text(part, f"{at}.{index}") for index, part in enumerate(content))
    return content or ""


def _part_text(part: wire.TextPart, at: str) -> str:
    if not part.type and part.text is None:
        raise RequestError(f"{at}.type: missing, and no text either", param=f"{at}.type")
    field = TEXT_OF.get(part.type or "text")
    if field is None:
        raise RequestError(f"{at}.type: this model reads text only, not {part.type[:40]!r}", param=f"{at}.type")
    text = getattr(part, field)
    if text is None:
        raise RequestError(f"{at}.{field}: missing", param=f"{at}.{field}")
    return str(text)
