"""Sorts an answer's text: thinking first, then tool calls, the rest is content."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from serve_app.text.said import Said
from serve_app.text.thinking import CHANNELS, Place, ThinkFormat, ThinkParser
from serve_app.tools.format import ToolFormat
from serve_app.tools.formats import HARMONY
from serve_app.tools.harmony import HarmonyParser
from serve_app.tools.parser import ToolParser

__all__ = ["AnswerParser", "ParseRules"]


class ParseRules(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for in an answer."""

    think: ThinkFormat | None = None
    place: Place = "before"  # where the answer begins
    shows_thinking: bool = True
    keeps_markers: bool = False  # thinking has its markers, as the model writes them
    tools: ToolFormat | None = None
    tool_schemas: Mapping[str, Any] = msgspec.field(default_factory=dict)  # of the arguments, by the tool's name
    max_calls: int | None = None
    forced: Literal["any", "named"] | None = None  # nothing but calls is said, or but one of the tool that was named

    @property
    def is_harmony(self) -> bool:
        """One parser reads thinking, calls and content."""
        return self.tools == HARMONY or self.think == CHANNELS


class AnswerParser:
    """The state of one choice. Pieces in, sorted pieces out; joined they are the same however the text is cut."""

    def __init__(self, rules: ParseRules) -> None:
        self._shows_thinking = rules.shows_thinking
        self._forced = rules.forced
        self._think: ThinkParser | HarmonyParser | None = None
        self._tools: ToolParser | HarmonyParser | None = None
        if rules.is_harmony:
            self._think = self._tools = HarmonyParser(rules.tool_schemas, rules.place, rules.max_calls)
            return
        if rules.think is not None:
            self._think = ThinkParser(rules.think, rules.place, keeps_markers=rules.keeps_markers)
        if rules.tools is not None:
            self._tools = ToolParser(rules.tools, rules.tool_schemas, rules.max_calls)

    @property
    def is_thinking(self) -> bool:
        return self._think is not None and self._think.is_thinking

    @property
    def is_hidden(self) -> bool:
        """The client does not want to see what is being said."""
        return self.is_thinking and not self._shows_thinking

    @property
    def calls_tools(self) -> bool:
        """There are calls, the model's own choice, and none is cut off. One of a named tool ends as text does."""
        return self._tools is not None and self._forced != "named" and self._tools.is_complete

    def push(self, text: str) -> Said:
        return self._without_pieces(self._sorted(self._think.push(text) if self._think else Said(content=text)))

    def flush(self) -> Said:
        said = self._sorted(self._think.flush()) if self._think is not None else Said()
        if self._tools is not None and self._tools is not self._think:
            said.add(self._tools.flush())
        return self._without_pieces(said)

    def _sorted(self, said: Said) -> Said:
        if isinstance(self._think, HarmonyParser):
            return said if self._shows_thinking else msgspec.structs.replace(said, reasoning="")
        reasoning = said.reasoning if self._shows_thinking else ""
        found = self._tools.push(said.content) if self._tools is not None else Said(content=said.content)
        found.reasoning = reasoning
        return found

    def _without_pieces(self, said: Said) -> Said:
        """Where only calls can be said, the piece of one that was cut before its name is nothing to read."""
        return said if self._forced is None else msgspec.structs.replace(said, content="")
