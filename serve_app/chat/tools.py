"""Adapter of tools and tool_choice, and of the older functions and function_call, to neutral ones."""

from engine.errors import RequestError
from serve_app.api import requests as wire
from serve_app.api.requests import AllowedTools, ChatOptions, Function, FunctionName, NamedTool
from serve_app.request.conversation import Tool, ToolChoice

__all__ = ["neutral_tool", "neutral_tools", "tool_choice"]

AUTO = ToolChoice()


def neutral_tools(chat: ChatOptions) -> tuple[Tool, ...]:
    if chat.functions:
        return tuple(neutral_tool(wire.Tool(function=function)) for function in chat.functions)
    return tuple(neutral_tool(tool) for tool in chat.tools)


def neutral_tool(tool: wire.Tool) -> Tool:
    function: Function = tool.function
    # with only those fields that the client has set
    definition = {"type": tool.type, "function": function.model_dump(exclude_unset=True)}
    return Tool(function.name, function.parameters or {}, bool(function.strict), definition)


def tool_choice(chat: ChatOptions) -> ToolChoice:
    """Raises RequestError."""
    if isinstance(chat.function_call, FunctionName) and not chat.functions:
        raise RequestError("function_call: there are no functions to choose from", param="function_call")
    choice = chat.function_call if chat.functions else chat.tool_choice
    match choice:
        case None | "auto":
            return AUTO
        case "none" | "required":
            return ToolChoice(choice)
        case FunctionName(name=name):
            return ToolChoice("named", (name,))
        case NamedTool(function=function):
            return ToolChoice("named", (function.name,))
        case AllowedTools(allowed_tools=subset):
            return ToolChoice(subset.mode, tuple(tool.function.name for tool in subset.tools))
