"""Which tools a request offers, and which of them the model may call."""

from typing import Any

import msgspec

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.limits import at_most
from serve_app.protocol import AllowedTools, ChatRequest, NamedTool

__all__ = ["ToolUse", "tool_use"]


class ToolUse(msgspec.Struct, frozen=True):
    shown: list[dict[str, Any]]  # what the template presents
    names: frozenset[str]  # what may be called; none: the answer is not searched for calls
    max_calls: int | None


def tool_use(chat: ChatRequest, limits: ApiConfig) -> ToolUse:
    """Raises RequestError."""
    tools = chat.tools or []
    at_most("tools", len(tools), limits.max_tools)
    names = [tool.function.name for tool in tools]
    for position, name in enumerate(names):
        if name in names[:position]:
            raise RequestError(
                f"tools.{position}.function.name: {name!r} names two tools", param=f"tools.{position}.function.name"
            )
    return ToolUse(
        shown=[tool.model_dump(exclude_unset=True) for tool in tools],
        names=_callable(chat.tool_choice, names),
        max_calls=None if chat.parallel_tool_calls else 1,
    )


def _callable(choice: str | NamedTool | AllowedTools | None, names: list[str]) -> frozenset[str]:
    if choice is None or choice == "auto":
        return frozenset(names)
    if choice == "none":
        return frozenset()
    if not names:
        raise RequestError("tool_choice: there are no tools to choose from", param="tool_choice")
    if isinstance(choice, AllowedTools):
        allowed = [tool.function.name for tool in choice.allowed_tools.tools]
    else:
        allowed = [choice.function.name] if isinstance(choice, NamedTool) else names
    for name in allowed:
        if name not in names:
            raise RequestError(f"tool_choice: there is no tool {name!r}", param="tool_choice")
    if isinstance(choice, AllowedTools) and choice.allowed_tools.mode == "auto":
        return frozenset(allowed)
    raise RequestError("tool_choice: a call cannot be forced on this server; use auto or none", param="tool_choice")
