"""Message delta: the content, reasoning and tool-call deltas of a piece of an answer."""

import msgspec

__all__ = ["ToolCallDelta", "MessageDelta"]


class ToolCallDelta(msgspec.Struct, frozen=True):
    """A delta of a tool call. The first one of each call, and only it, has id and name."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


class MessageDelta(msgspec.Struct):
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()

    def add(self, other: "MessageDelta") -> None:
        self.content += other.content
        self.reasoning += other.reasoning
        self.tool_calls += other.tool_calls
