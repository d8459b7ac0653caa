"""Segments: the reasoning, text and tool calls of one choice, in the order in which the model wrote them.

For APIs whose answers are lists of content blocks or items. Streams and whole answers are made of the same changes.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec

from serve_app.text.message_delta import MessageDelta, ToolCallDelta

__all__ = ["Segment", "SegmentChange", "Segments"]

Kind = Literal["reasoning", "text", "call"]


class Segment(msgspec.Struct):
    kind: Kind
    index: int  # within the answer
    call_id: str = ""
    name: str = ""  # of the called tool
    call: int = -1  # which call of the answer
    pieces: list[str] = msgspec.field(default_factory=list)

    @property
    def text(self) -> str:
        """What has come so far: reasoning, text, or the call's arguments as JSON text."""
        return "".join(self.pieces)


class SegmentChange(msgspec.Struct, frozen=True):
    action: Literal["open", "grow", "close"]
    segment: Segment
    text: str = ""  # by which it grows


class Segments:
    """One segment is open at a time; the next one closes it."""

    def __init__(self) -> None:
        self.all: list[Segment] = []
        self._open: Segment | None = None

    def push(self, message: MessageDelta) -> Iterator[SegmentChange]:
        if message.reasoning:
            yield from self._grown("reasoning", message.reasoning)
        for piece in message.in_order():
            if isinstance(piece, str):
                yield from self._grown("text", piece)
            else:
                yield from self._called(piece)

    def begin_text(self) -> Iterator[SegmentChange]:
        """Opens an empty text, for an answer that has nothing else."""
        yield from self._opened(Segment("text", len(self.all)))

    def end(self) -> Iterator[SegmentChange]:
        """Closes the open segment."""
        if self._open is not None:
            segment, self._open = self._open, None
            yield SegmentChange("close", segment)

    def _grown(self, kind: Kind, text: str) -> Iterator[SegmentChange]:
        if self._open is None or self._open.kind != kind:
            yield from self._opened(Segment(kind, len(self.all)))
        assert self._open is not None
        self._open.pieces.append(text)
        yield SegmentChange("grow", self._open, text)

    def _called(self, piece: ToolCallDelta) -> Iterator[SegmentChange]:
        if piece.name is not None:
            yield from self._opened(Segment("call", len(self.all), piece.id or "", piece.name, piece.index))
        if piece.arguments:
            yield from self._grown("call", piece.arguments)

    def _opened(self, segment: Segment) -> Iterator[SegmentChange]:
        yield from self.end()
        self.all.append(segment)
        self._open = segment
        yield SegmentChange("open", segment)
