"""Adapter of the tools and tool_choice of /v1/responses. A custom tool is a function of one text."""

from collections.abc import Sequence

from engine.errors import RequestError
from serve_app.request import conversation as neutral
from serve_app.responses.items import CUSTOM_INPUT
from serve_app.responses.requests import Tool, ToolChoice

__all__ = ["custom_names", "neutral_tool_choice", "neutral_tools"]

CUSTOM_SCHEMA = {
    "type": "object",
    "properties": {CUSTOM_INPUT: {"type": "string"}},
    "required": [CUSTOM_INPUT],
    "additionalProperties": False,
}
OWN = ("function", "custom")


def neutral_tools(tools: Sequence[Tool]) -> tuple[neutral.Tool, ...]:
    """Raises RequestError that names a tool that OpenAI would run."""
    return tuple(_neutral(tool, f"tools.{position}") for position, tool in enumerate(tools))


def custom_names(tools: Sequence[Tool]) -> tuple[str, ...]:
    return tuple(tool.name for tool in tools if tool.type == "custom" and tool.name)


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


def _neutral(tool: Tool, at: str) -> neutral.Tool:
    if tool.type not in OWN:
        raise _hosted(tool.type, f"{at}.type")
    if tool.name is None:
        raise RequestError(f"{at}.name: missing", param=f"{at}.name")
    schema = CUSTOM_SCHEMA if tool.type == "custom" else tool.parameters
    shown = {"name": tool.name, "description": _described(tool), "parameters": schema, "strict": tool.strict}
    function = {name: value for name, value in shown.items() if value is not None}
    return neutral.Tool(tool.name, schema or {}, bool(tool.strict), {"type": "function", "function": function})


def _described(tool: Tool) -> str | None:
    """The description; a custom tool's grammar is told to the model in words."""
    definition = (tool.format or {}).get("definition")
    if not isinstance(definition, str):
        return tool.description
    return f"{tool.description or ''}\nThe input follows this grammar:\n{definition}".strip()


def _name(tool: dict[str, object], position: int) -> str:
    name = tool.get("name")
    if tool.get("type") not in OWN or not isinstance(name, str):
        raise _hosted(str(tool.get("type")), f"tool_choice.tools.{position}.type")
    return name


def _hosted(kind: str, field: str) -> RequestError:
    return RequestError(f"{field}: this server does not run {kind[:40]!r}, only function and custom tools", param=field)
