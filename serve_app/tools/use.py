"""Which tools a request offers, and which of them the model may call."""

from typing import Any, Literal

import msgspec

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.api.limits import at_most
from serve_app.api.requests import AllowedTools, ChatRequest, Function, NamedTool
from serve_app.grammar.holdable import without_what_no_grammar_holds
from serve_app.grammar.old_drafts import modern
from serve_app.tools.closed import closed
from serve_app.tools.type_names import with_plain_types

__all__ = ["ToolUse", "sources_of", "tool_use"]


class ToolUse(msgspec.Struct, frozen=True):
    shown: list[dict[str, Any]]  # what the template presents
    schemas: dict[str, Any]  # name -> schema of the arguments, of what may be called; none: no calls are looked for
    forced: Literal["any", "named"] | None  # the answer must be calls, or a call of the one tool
    max_calls: int | None


def tool_use(chat: ChatRequest, limits: ApiConfig) -> ToolUse:
    """Raises RequestError."""
    tools = chat.tools
    at_most("tools", len(tools), limits.max_tools)
    names = [tool.function.name for tool in tools]
    for position, name in enumerate(names):
        if name in names[:position]:
            raise RequestError(
                f"tools.{position}.function.name: {name!r} names two tools", param=f"tools.{position}.function.name"
            )
    allowed, forced = _choice(chat.tool_choice, names)
    return ToolUse(
        shown=[tool.shown() for tool in tools],
        schemas={
            tool.function.name: _arguments(tool.function, f"tools.{position}.function.parameters")
            for position, tool in enumerate(tools)
            if tool.function.name in allowed
        },
        forced=forced,
        max_calls=1 if forced == "named" or not chat.parallel_tool_calls else None,
    )


def sources_of(tools: ToolUse) -> tuple[tuple[str, Any], ...]:
    """The fields of the request that hold the schemas of what may be called, with these."""
    names = [tool["function"]["name"] for tool in tools.shown]
    return tuple((f"tools.{names.index(name)}.function.parameters", schema) for name, schema in tools.schemas.items())


def _arguments(function: Function, field: str) -> dict[str, Any]:
    """Arguments are an object, whether or not their schema says so; a function without a schema has none."""
    schema = closed(modern(with_plain_types(function.parameters or {"properties": {}})))
    declared = schema.get("type", "object")
    if "object" not in (declared if isinstance(declared, list) else [declared]):
        raise RequestError(f"{field}.type: arguments are an object, so it must be 'object'", param=field)
    schema = {**schema, "type": "object"}
    return schema if function.strict else without_what_no_grammar_holds(schema)


def _choice(
    choice: str | NamedTool | AllowedTools | None, names: list[str]
) -> tuple[list[str], Literal["any", "named"] | None]:
    """What may be called, and whether something must be."""
    if choice is None or choice == "auto":
        return names, None
    if choice == "none":
        return [], None
    if not names:
        raise RequestError("tool_choice: there are no tools to choose from", param="tool_choice")
    if isinstance(choice, NamedTool):
        return _known([choice.function.name], names), "named"
    if isinstance(choice, AllowedTools):
        allowed = _known([tool.function.name for tool in choice.allowed_tools.tools], names)
        return allowed, "any" if choice.allowed_tools.mode == "required" else None
    return names, "any"


def _known(chosen: list[str], names: list[str]) -> list[str]:
    for name in chosen:
        if name not in names:
            raise RequestError(f"tool_choice: there is no tool {name!r}", param="tool_choice")
    return chosen
