"""From the wire's messages to what a chat template reads."""

from collections.abc import Sequence
from typing import Any

from engine.errors import RequestError
from serve_app.api.requests import Message, TextPart, ToolCall
from serve_app.text.json_text import parse_json

__all__ = ["template_messages"]

# type of a part -> where its text stands
TEXT_OF = {
    "text": "text",
    "input_text": "text",  # as /v1/responses calls them
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
MAY_BE_SILENT = {"assistant", "tool", "function"}  # a call may give nothing
NO_OBJECT = "arguments"  # the name under which a call's text is shown that is not that of a JSON object


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Every message with its content as one string. Raises RequestError that names the message."""
    shown: list[dict[str, Any]] = []
    called = ""  # by the last call without an id, which templates need: nine digits, as Mistral's take no other
    for index, message in enumerate(messages):
        called = f"{index:09}" if message.function_call is not None else called
        shown.append(_template_message(message, f"messages.{index}", called))
    return shown


def _template_message(message: Message, at: str, called: str) -> dict[str, Any]:
    if message.content is None and message.role not in MAY_BE_SILENT:
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
            shown["tool_calls"] = [_template_call(call) for call in message.tool_calls]
        elif message.function_call is not None:
            call = ToolCall(id=called, function=message.function_call)
            shown["tool_calls"] = [_template_call(call)]
    return shown


def _template_call(call: ToolCall) -> dict[str, Any]:
    """Templates want arguments as an object. What a model has written earlier may be none: it is shown as it is."""
    arguments = call.function.arguments
    if isinstance(arguments, str):
        arguments = _arguments(arguments)
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id or "", "type": "function", "function": function}


def _arguments(text: str) -> dict[str, Any]:
    try:
        value = parse_json(text or "{}")
    except ValueError:
        return {NO_OBJECT: text}
    if value is None:  # as some write where there are none
        return {}
    return value if isinstance(value, dict) else {NO_OBJECT: text}


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
