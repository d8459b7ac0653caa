"""Errors about tools in the words of functions, as tools were called first."""

import re

from engine.errors import RequestError

__all__ = ["in_words_of_functions"]

WORDS = (
    (r"\btools\.(\d+)\.function\b", r"functions.\1"),
    (r"\btool_choice\b", "function_call"),
    (r"\btools\b", "functions"),
)


def in_words_of_functions(fault: RequestError) -> RequestError:
    """What is wrong with the tools, for the client that has called them functions."""
    message, param = str(fault), fault.param or ""
    for tools, functions in WORDS:
        message, param = re.sub(tools, functions, message), re.sub(tools, functions, param)
    return RequestError(message, param or None)
