"""Message delta: the content, reasoning and tool-call deltas of a piece of an answer."""

from collections.abc import Iterator

import msgspec

__all__ = ["ToolCallDelta", "MessageDelta"]


class ToolCallDelta(msgspec.Struct, frozen=True):
    """A delta of a tool call. The first one of each call, and only it, has id and name."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None
    after: int = 0  # characters of the message delta's content that come before it


class MessageDelta(msgspec.Struct):
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()

    def add(self, other: "MessageDelta") -> None:
        calls = other.tool_calls
        if calls and (before := len(self.content)):
            calls = tuple(msgspec.structs.replace(call, after=call.after + before) for call in calls)
        self.content += other.content
        self.reasoning += other.reasoning
        self.tool_calls += calls

    def in_order(self) -> Iterator[str | ToolCallDelta]:
        """Content and tool-call deltas as the model wrote them. Reasoning comes before both."""
        start = 0
        for call in self.tool_calls:
            if call.after > start:
                yield self.content[start : call.after]
                start = call.after
            yield call
        if start < len(self.content):
            yield self.content[start:]
