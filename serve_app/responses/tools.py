"""Adapter of the tools and tool_choice of /v1/responses.

A custom tool is a function of one text. A tool of a namespace is called NAMESPACE__NAME by the model.
"""

from collections.abc import Iterator, Sequence

import msgspec

from engine.errors import RequestError
from serve_app.request import conversation as neutral
from serve_app.responses.items import CUSTOM_INPUT, name_within
from serve_app.responses.requests import Tool, ToolChoice, ToolOrNamespace

__all__ = ["CallForm", "call_forms", "neutral_tool_choice", "neutral_tools"]

CUSTOM_SCHEMA = {
    "type": "object",
    "properties": {CUSTOM_INPUT: {"type": "string"}},
    "required": [CUSTOM_INPUT],
    "additionalProperties": False,
}
OWN = ("function", "custom")


class CallForm(msgspec.Struct, frozen=True):
    """How calls of a tool are sent, other than as calls of the function that the model knows."""

    name: str
    namespace: str | None
    is_custom: bool


def neutral_tools(tools: Sequence[ToolOrNamespace]) -> tuple[neutral.Tool, ...]:
    """Raises RequestError that names a tool that OpenAI would run."""
    return tuple(_neutral(tool, namespace, at) for tool, namespace, at in _flat(tools))


def call_forms(tools: Sequence[ToolOrNamespace]) -> dict[str, CallForm]:
    """By the name that the model knows; none for plain functions."""
    return {
        name_within(namespace, tool.name): CallForm(tool.name, namespace, tool.type == "custom")
        for tool, namespace, _ in _flat(tools)
        if tool.name is not None and (namespace is not None or tool.type == "custom")
    }


def neutral_tool_choice(choice: str | ToolChoice) -> neutral.ToolChoice:
    """Raises RequestError."""
    match choice:
        case "none" | "required":
            return neutral.ToolChoice(choice)
        case ToolChoice(type="function" | "custom"):
            if choice.name is None:
                raise RequestError("tool_choice.name: missing", param="tool_choice.name")
            return neutral.ToolChoice("named", (choice.name,))
        case ToolChoice(type="allowed_tools"):
            names = tuple(_name(tool, position) for position, tool in enumerate(choice.tools))
            if not names:
                raise RequestError("tool_choice.tools: there must be at least one", param="tool_choice.tools")
            return neutral.ToolChoice(choice.mode, names)
        case ToolChoice():
            raise _hosted(choice.type, "tool_choice.type")
    return neutral.ToolChoice()


def _flat(tools: Sequence[ToolOrNamespace]) -> Iterator[tuple[Tool, str | None, str]]:
    """Each tool with its namespace and its field."""
    for position, tool in enumerate(tools):
        at = f"tools.{position}"
        if tool.type != "namespace":
            yield tool, None, at
            continue
        if tool.name is None:
            raise RequestError(f"{at}.name: missing", param=f"{at}.name")
        for inner, one in enumerate(tool.tools or ()):
            yield one, tool.name, f"{at}.tools.{inner}"


def _neutral(tool: Tool, namespace: str | None, at: str) -> neutral.Tool:
    if tool.type not in OWN:
        raise _hosted(tool.type, f"{at}.type")
    if tool.name is None:
        raise RequestError(f"{at}.name: missing", param=f"{at}.name")
    name = name_within(namespace, tool.name)
    schema = CUSTOM_SCHEMA if tool.type == "custom" else tool.parameters
    shown = {"name": name, "description": _described(tool), "parameters": schema, "strict": tool.strict}
    function = {name: value for name, value in shown.items() if value is not None}
    return neutral.Tool(name, schema or {}, bool(tool.strict), {"type": "function", "function": function})


def _described(tool: Tool) -> str | None:
    """The description; a custom tool's grammar is told to the model in words."""
    definition = (tool.format or {}).get("definition")
    if not isinstance(definition, str):
        return tool.description
    return f"{tool.description or ''}\nThe input follows this grammar:\n{definition}".strip()


def _name(tool: dict[str, object], position: int) -> str:
    name, namespace = tool.get("name"), tool.get("namespace")
    if tool.get("type") not in OWN or not isinstance(name, str):
        raise _hosted(str(tool.get("type")), f"tool_choice.tools.{position}.type")
    return name_within(namespace if isinstance(namespace, str) else None, name)


def _hosted(kind: str, field: str) -> RequestError:
    return RequestError(f"{field}: this server does not run {kind[:40]!r}, only function and custom tools", param=field)
