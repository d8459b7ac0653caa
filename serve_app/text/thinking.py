"""Tells a model's thinking from its answer."""

from typing import Literal

import msgspec

from serve_app.text.markers import split_at_marker
from serve_app.text.said import Said

__all__ = ["CHANNELS", "THINK_FORMATS", "Place", "ThinkFormat", "ThinkParser", "find_think_format"]

Place = Literal["before", "inside", "after"]  # the thinking


class ThinkFormat(msgspec.Struct, frozen=True):
    name: str
    opens: str
    closes: str
    always: bool = False  # the model thinks first, whether or not it says so

    def place_after(self, prompt: str) -> Place:
        """Where an answer to this prompt begins: many templates write the markers themselves."""
        end = prompt.rstrip()
        if end.endswith(self.opens):
            return "inside"
        return "after" if end.endswith(self.closes) else "before"


# gpt-oss: tools.harmony reads all of its channels
CHANNELS = ThinkFormat("harmony", "<|channel|>analysis<|message|>", "<|end|>")
THINK_FORMATS = {
    one.name: one
    for one in (
        ThinkFormat("think", "<think>", "</think>"),
        ThinkFormat("deepseek_r1", "<think>", "</think>", always=True),
        ThinkFormat("mistral", "[THINK]", "[/THINK]"),
        CHANNELS,
        ThinkFormat("seed_oss", "<seed:think>", "</seed:think>"),
        ThinkFormat("cohere_command3", "<|START_THINKING|>", "<|END_THINKING|>"),
        ThinkFormat("granite", "Here is my thought process:", "Here is my response:"),
    )
}


def find_think_format(template: str) -> ThinkFormat | None:
    """The format that a chat template speaks of."""
    if CHANNELS.opens.partition("analysis")[0] in template and "<|message|>" in template:
        return CHANNELS
    for name in ("think", "mistral", "granite", "seed_oss", "cohere_command3"):
        if THINK_FORMATS[name].closes in template:
            return THINK_FORMATS[name]
    return None


class ThinkParser:
    """The thinking of one answer: once, at its beginning.

    before --opens--> inside --closes--> after
       \\--anything else-----------------^
    """

    def __init__(self, format_: ThinkFormat, place: Place, *, keeps_markers: bool = False) -> None:
        """keeps_markers   as part of the thinking, and the white space before it"""
        self._format = format_
        self._place = place
        self._keeps_markers = keeps_markers
        self._held = ""

    @property
    def is_thinking(self) -> bool:
        return self._place == "inside"

    def push(self, text: str) -> Said:
        opening = ""
        if self._place == "before":
            opening, text = self._begin(text)
        if self._place != "inside":
            return Said(content=text)
        said, marker, self._held = split_at_marker(self._held + text, [self._format.closes])
        if marker is None:
            return self._thought(opening, said)
        self._place = "after"
        rest, self._held = self._held, ""
        return msgspec.structs.replace(self._thought(opening, said, marker), content=rest)

    def flush(self) -> Said:
        held, self._held = self._held, ""
        return Said(reasoning=held) if self.is_thinking else Said(content=held)

    def _thought(self, opening: str, said: str, closing: str = "") -> Said:
        return Said(reasoning=opening + said + closing if self._keeps_markers else said)

    def _begin(self, text: str) -> tuple[str, str]:
        """The opening marker, with what comes before it, and the rest; nothing as long as there may be one."""
        text, self._held = self._held + text, ""
        opens, seen = self._format.opens, text.lstrip()
        if len(seen) < len(opens) and opens.startswith(seen):
            self._held = text
            return "", ""
        if seen.startswith(opens):
            self._place = "inside"
            rest = seen.removeprefix(opens)
            return text.removesuffix(rest), rest
        self._place = "inside" if self._format.always else "after"
        return "", text
