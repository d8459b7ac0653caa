"""Reasoning parser: splits a model's reasoning from its answer, by the markers of its family."""

from typing import Literal

import msgspec

from serve_app.text.markers import split_at_marker
from serve_app.text.message_delta import MessageDelta

__all__ = [
    "CHANNELS",
    "REASONING_FORMATS",
    "ReasoningPosition",
    "ReasoningFormat",
    "ReasoningParser",
    "find_reasoning_format",
]

ReasoningPosition = Literal["before", "inside", "after"]  # the reasoning


class ReasoningFormat(msgspec.Struct, frozen=True):
    name: str
    opens: str
    closes: str
    always: bool = False  # the model reasons first, also without a start marker

    def position_after(self, prompt: str) -> ReasoningPosition:
        """The position of an answer to this prompt: many templates write the markers themselves."""
        end = prompt.rstrip()
        if end.endswith(self.opens):
            return "inside"
        return "after" if end.endswith(self.closes) else "before"


# gpt-oss: tools.harmony_parser reads all of its channels
CHANNELS = ReasoningFormat("harmony", "<|channel|>analysis<|message|>", "<|end|>")
REASONING_FORMATS = {
    one.name: one
    for one in (
        ReasoningFormat("think", "<think>", "</think>"),
        ReasoningFormat("deepseek_r1", "<think>", "</think>", always=True),
        ReasoningFormat("mistral", "[THINK]", "[/THINK]"),
        CHANNELS,
        ReasoningFormat("gemma4", "<|channel>thought", "<channel|>"),
        ReasoningFormat("longcat", "<longcat_think>", "</longcat_think>"),
        ReasoningFormat("seed_oss", "<seed:think>", "</seed:think>"),
        ReasoningFormat("cohere_command3", "<|START_THINKING|>", "<|END_THINKING|>"),
        ReasoningFormat("granite", "Here is my thought process:", "Here is my response:"),
    )
}


def find_reasoning_format(template: str) -> ReasoningFormat | None:
    """The format whose markers a chat template mentions."""
    if CHANNELS.opens.partition("analysis")[0] in template and "<|message|>" in template:
        return CHANNELS
    for name in ("think", "mistral", "granite", "gemma4", "longcat", "seed_oss", "cohere_command3"):
        if REASONING_FORMATS[name].closes in template:
            return REASONING_FORMATS[name]
    return None


class ReasoningParser:
    """The reasoning of one answer, which comes once, at its beginning.

    before --opens--> inside --closes--> after
       \\--anything else-----------------^
    """

    def __init__(self, format_: ReasoningFormat, position: ReasoningPosition, *, keeps_markers: bool = False) -> None:
        """keeps_markers   markers, and the whitespace before them, are part of the reasoning"""
        self._format = format_
        self._position = position
        self._keeps_markers = keeps_markers
        self._buffer = ""

    @property
    def is_reasoning(self) -> bool:
        return self._position == "inside"

    def push(self, text: str) -> MessageDelta:
        opening = ""
        if self._position == "before":
            opening, text = self._begin(text)
        if self._position != "inside":
            return MessageDelta(content=text)
        reasoning, marker, self._buffer = split_at_marker(self._buffer + text, [self._format.closes])
        if marker is None:
            return self._reasoning(opening, reasoning)
        self._position = "after"
        rest, self._buffer = self._buffer, ""
        return msgspec.structs.replace(self._reasoning(opening, reasoning, marker), content=rest)

    def flush(self) -> MessageDelta:
        held, self._buffer = self._buffer, ""
        return MessageDelta(reasoning=held) if self.is_reasoning else MessageDelta(content=held)

    def _reasoning(self, opening: str, text: str, closing: str = "") -> MessageDelta:
        return MessageDelta(reasoning=opening + text + closing if self._keeps_markers else text)

    def _begin(self, text: str) -> tuple[str, str]:
        """The opening marker with the text before it, and the rest; nothing while a marker may still come."""
        text, self._buffer = self._buffer + text, ""
        opens, seen = self._format.opens, text.lstrip()
        if len(seen) < len(opens) and opens.startswith(seen):
            self._buffer = text
            return "", ""
        if seen.startswith(opens):
            self._position = "inside"
            rest = seen.removeprefix(opens)
            return text.removesuffix(rest), rest
        self._position = "inside" if self._format.always else "after"
        return "", text
