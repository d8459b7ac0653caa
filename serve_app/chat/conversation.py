"""From the wire's messages to what a chat template reads."""

from collections.abc import Sequence
from typing import Any

import msgspec

from engine.errors import RequestError
from serve_app.api.requests import Message, TextPart, ToolCall

__all__ = ["template_messages"]

# type of a part -> where its text stands
TEXT_OF = {
    "text": "text",
    "input_text": "text",  # as /v1/responses calls them
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Every message with its content as one string. Raises RequestError that names the message."""
    shown: list[dict[str, Any]] = []
    called = ""  # by the last call without an id, which templates need: nine digits, as Mistral's take no other
    for index, message in enumerate(messages):
        called = f"{index:09}" if message.function_call is not None else called
        shown.append(_template_message(message, f"messages.{index}", called))
    return shown


def _template_message(message: Message, at: str, called: str) -> dict[str, Any]:
    if message.content is None and message.role != "assistant":
        raise RequestError(f"{at}.content: a message of role {message.role!r} needs content", param=f"{at}.content")
    said = message.content if message.content is not None else message.refusal
    shown: dict[str, Any] = {"role": message.role, "content": _text(said, f"{at}.content")}
    for key in ("name", "tool_call_id"):
        if (value := getattr(message, key)) is not None:
            shown[key] = value
    if message.role == "function":
        shown |= {"role": "tool", "tool_call_id": called}
    if message.role == "assistant":
        reasoning = message.reasoning if message.reasoning is not None else message.reasoning_content
        if reasoning is not None:
            shown["reasoning_content"] = shown["reasoning"] = reasoning  # templates read one or the other
        if message.tool_calls:
            shown["tool_calls"] = [
                _template_call(call, f"{at}.tool_calls.{index}.function.arguments")
                for index, call in enumerate(message.tool_calls)
            ]
        elif message.function_call is not None:
            call = ToolCall(id=called, function=message.function_call)
            shown["tool_calls"] = [_template_call(call, f"{at}.function_call.arguments")]
    return shown


def _template_call(call: ToolCall, field: str) -> dict[str, Any]:
    """Templates want arguments as an object. `field` is where the client has them."""
    arguments = call.function.arguments
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments or "{}")
        except (msgspec.MsgspecError, RecursionError, ValueError):
            arguments = ""
        arguments = {} if arguments is None else arguments  # some write null where there are none
        if not isinstance(arguments, dict):
            raise RequestError(f"{field}: must be the text of a JSON object", param=field)
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id or "", "type": "function", "function": function}


def _text(content: str | list[TextPart] | None, at: str) -> str:
    if isinstance(content, list):
        return "\n".join(_part_text(part, f"{at}.{index}") for index, part in enumerate(content))
    return content or ""


def _part_text(part: TextPart, at: str) -> str:
    if not part.type and part.text is None:
        raise RequestError(f"{at}.type: missing, and no text either", param=f"{at}.type")
    field = TEXT_OF.get(part.type or "text")
    if field is None:
        raise RequestError(f"{at}.type: this model reads text only, not {part.type[:40]!r}", param=f"{at}.type")
    text = getattr(part, field)
    if text is None:
        raise RequestError(f"{at}.{field}: missing", param=f"{at}.{field}")
    return str(text)
