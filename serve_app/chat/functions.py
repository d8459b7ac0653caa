"""Functions, as tools were called first: one call at a time, and without an id. Requests are put into tools' words."""

import re

from engine.errors import RequestError
from serve_app.api.requests import ChatRequest, FunctionName, NamedTool, Tool

__all__ = ["in_words_of_functions", "in_words_of_tools"]

WORDS = (
    (r"\btools\.(\d+)\.function\b", r"functions.\1"),
    (r"\btool_choice\b", "function_call"),
    (r"\btools\b", "functions"),
)


def in_words_of_tools(chat: ChatRequest) -> ChatRequest:
    """The request with its functions as tools. Raises RequestError if it has both."""
    if not chat.functions:
        return chat
    if chat.tools:
        raise RequestError("functions: not together with tools, which is their newer name", param="functions")
    choice = chat.function_call
    return chat.model_copy(
        update={
            "tools": [Tool(function=function) for function in chat.functions],
            "tool_choice": NamedTool(function=choice) if isinstance(choice, FunctionName) else choice,
            "parallel_tool_calls": False,
        }
    )


def in_words_of_functions(fault: RequestError) -> RequestError:
    """What is wrong with the tools, for the client that has called them functions."""
    message, param = str(fault), fault.param or ""
    for tools, functions in WORDS:
        message, param = re.sub(tools, functions, message), re.sub(tools, functions, param)
    return RequestError(message, param or None)
