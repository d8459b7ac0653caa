"""Messages in the shape that chat templates read."""

from collections.abc import Sequence
from typing import Any

from serve_app.request.conversation import Message, ToolCall

__all__ = ["template_messages"]


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [_template_message(message) for message in messages]


def _template_message(message: Message) -> dict[str, Any]:
    shown: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        shown["name"] = message.name
    if message.tool_call_id is not None:
        shown["tool_call_id"] = message.tool_call_id
    if message.reasoning is not None:
        shown["reasoning_content"] = shown["reasoning"] = message.reasoning  # templates read one or the other
    if message.tool_calls:
        shown["tool_calls"] = [_template_call(call) for call in message.tool_calls]
    return shown


def _template_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
