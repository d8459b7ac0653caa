"""Errors about tools, renamed for clients of the older functions API."""

import re

from engine.errors import RequestError

__all__ = ["naming_functions"]

WORDS = (
    (r"\btools\.(\d+)\.function\b", r"functions.\1"),
    (r"\btool_choice\b", "function_call"),
    (r"\btools\b", "functions"),
)


def naming_functions(fault: RequestError) -> RequestError:
    """The same error with `functions` and `function_call` in place of `tools` and `tool_choice`."""
    message, param = str(fault), fault.param or ""
    for tools, functions in WORDS:
        message, param = re.sub(tools, functions, message), re.sub(tools, functions, param)
    return RequestError(message, param or None)
