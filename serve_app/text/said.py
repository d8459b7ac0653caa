"""What a piece of an answer says, sorted: to the reader, to itself, to a tool."""

import msgspec

__all__ = ["CallPiece", "Said"]


class CallPiece(msgspec.Struct, frozen=True):
    """A piece of a tool call. The first piece of each call, and only it, has id and name."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


class Said(msgspec.Struct):
    content: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()

    def add(self, other: "Said") -> None:
        self.content += other.content
        self.reasoning += other.reasoning
        self.calls += other.calls
