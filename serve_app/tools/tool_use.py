"""Tool use: the tools of a request, the ones that may be called (tool_choice), and their schemas."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.grammar.schema_upgrade import upgraded
from serve_app.grammar.unsupported_keywords import without_unsupported_keywords
from serve_app.request.conversation import Conversation, Tool, ToolChoice
from serve_app.request.limits import at_most
from serve_app.tools.additional_properties import without_additional_properties
from serve_app.tools.type_names import with_plain_types

__all__ = ["ToolUse", "sources_of", "tool_use"]


class ToolUse(msgspec.Struct, frozen=True):
    definitions: list[dict[str, Any]]  # for the chat template
    schemas: dict[str, Any]  # name -> schema of the arguments, of callable tools; {}: calls are not parsed
    forced: Literal["any", "named"] | None  # the answer must be calls, or a call of the named tool
    max_calls: int | None


def tool_use(conversation: Conversation, limits: ApiConfig) -> ToolUse:
    """Raises RequestError."""
    tools = conversation.tools
    at_most("tools", len(tools), limits.max_tools)
    names = [tool.name for tool in tools]
    for position, name in enumerate(names):
        if name in names[:position]:
            raise RequestError(
                f"tools.{position}.function.name: {name!r} names two tools", param=f"tools.{position}.function.name"
            )
    allowed, forced = _choice(conversation.tool_choice, names)
    return ToolUse(
        definitions=[tool.definition for tool in tools],
        schemas={
            tool.name: _arguments(tool, f"tools.{position}.function.parameters")
            for position, tool in enumerate(tools)
            if tool.name in allowed
        },
        forced=forced,
        max_calls=1 if forced == "named" or not conversation.parallel_tool_calls else None,
    )


def sources_of(tools: ToolUse) -> tuple[tuple[str, Any], ...]:
    """The request's fields with the schemas of the callable tools, and these schemas."""
    names = [tool["function"]["name"] for tool in tools.definitions]
    return tuple((f"tools.{names.index(name)}.function.parameters", schema) for name, schema in tools.schemas.items())


def _arguments(tool: Tool, field: str) -> dict[str, Any]:
    """The schema of a tool's arguments, always an object; without a schema it has no properties."""
    schema = without_additional_properties(upgraded(with_plain_types(tool.parameters or {"properties": {}})))
    declared = schema.get("type", "object")
    if "object" not in (declared if isinstance(declared, list) else [declared]):
        raise RequestError(f"{field}.type: arguments are an object, so it must be 'object'", param=field)
    schema = {**schema, "type": "object"}
    return schema if tool.strict else without_unsupported_keywords(schema)


def _choice(choice: ToolChoice, names: Sequence[str]) -> tuple[Sequence[str], Literal["any", "named"] | None]:
    """The callable tools, and whether a call is forced."""
    if choice.mode == "none":
        return (), None
    if choice.mode == "auto" and choice.names is None:
        return names, None
    if not names:
        raise RequestError("tool_choice: there are no tools to choose from", param="tool_choice")
    allowed = names if choice.names is None else _known(choice.names, names)
    if choice.mode == "named":
        return allowed, "named"
    return allowed, "any" if choice.mode == "required" else None


def _known(chosen: Sequence[str], names: Sequence[str]) -> Sequence[str]:
    for name in chosen:
        if name not in names:
            raise RequestError(f"tool_choice: there is no tool {name!r}", param="tool_choice")
    return chosen
