"""Output parser: splits an answer's text into reasoning, tool calls and content, with the parser of each."""

from collections.abc import Mapping
from random import Random
from typing import Any, Literal

import msgspec

from serve_app.text.message_delta import MessageDelta
from serve_app.text.reasoning_parser import CHANNELS, ReasoningFormat, ReasoningParser, ReasoningPosition
from serve_app.tools.formats import HARMONY
from serve_app.tools.harmony_parser import HarmonyParser
from serve_app.tools.tool_call_format import ToolCallFormat
from serve_app.tools.tool_call_parser import ToolCallParser

__all__ = ["OutputParser", "ParseRules"]


class ParseRules(msgspec.Struct, frozen=True, kw_only=True):
    """The parsers of an answer, and their settings."""

    reasoning: ReasoningFormat | None = None
    position: ReasoningPosition = "before"  # of the answer's beginning
    sends_reasoning: bool = True
    keeps_markers: bool = False  # reasoning is sent with its markers
    tools: ToolCallFormat | None = None
    tool_schemas: Mapping[str, Any] = msgspec.field(default_factory=dict)  # of the arguments, by the tool's name
    max_calls: int | None = None
    forced: Literal["any", "named"] | None = None  # the answer is tool calls only, or one call of the named tool

    @property
    def is_harmony(self) -> bool:
        """Whether one parser reads reasoning, calls and content (gpt-oss)."""
        return self.tools == HARMONY or self.reasoning == CHANNELS


class OutputParser:
    """The state of one choice. The joined deltas do not depend on how the text is split."""

    def __init__(self, rules: ParseRules, random: Random | None = None) -> None:
        """`random`: of the calls' ids."""
        self._sends_reasoning = rules.sends_reasoning
        self._forced = rules.forced
        self._reasoning_parser: ReasoningParser | HarmonyParser | None = None
        self._tool_call_parser: ToolCallParser | HarmonyParser | None = None
        if rules.is_harmony:
            self._reasoning_parser = self._tool_call_parser = HarmonyParser(
                rules.tool_schemas, rules.position, rules.max_calls, random
            )
            return
        if rules.reasoning is not None:
            self._reasoning_parser = ReasoningParser(rules.reasoning, rules.position, keeps_markers=rules.keeps_markers)
        if rules.tools is not None:
            self._tool_call_parser = ToolCallParser(rules.tools, rules.tool_schemas, rules.max_calls, random)

    @property
    def is_reasoning(self) -> bool:
        return self._reasoning_parser is not None and self._reasoning_parser.is_reasoning

    @property
    def is_hidden(self) -> bool:
        """Whether the text is reasoning that the client does not want."""
        return self.is_reasoning and not self._sends_reasoning

    @property
    def calls_tools(self) -> bool:
        """Whether the finish reason is tool_calls: complete calls that the model chose. A named tool's call ends with
        stop."""
        return self._tool_call_parser is not None and self._forced != "named" and self._tool_call_parser.is_complete

    def push(self, text: str) -> MessageDelta:
        return self._without_rest(
            self._sorted(self._reasoning_parser.push(text) if self._reasoning_parser else MessageDelta(content=text))
        )

    def flush(self) -> MessageDelta:
        delta = self._sorted(self._reasoning_parser.flush()) if self._reasoning_parser is not None else MessageDelta()
        if self._tool_call_parser is not None and self._tool_call_parser is not self._reasoning_parser:
            delta.add(self._tool_call_parser.flush())
        return self._without_rest(delta)

    def _sorted(self, delta: MessageDelta) -> MessageDelta:
        if isinstance(self._reasoning_parser, HarmonyParser):
            return delta if self._sends_reasoning else msgspec.structs.replace(delta, reasoning="")
        reasoning = delta.reasoning if self._sends_reasoning else ""
        found = (
            self._tool_call_parser.push(delta.content)
            if self._tool_call_parser is not None
            else MessageDelta(content=delta.content)
        )
        found.reasoning = reasoning
        return found

    def _without_rest(self, delta: MessageDelta) -> MessageDelta:
        """With forced calls, drops the beginning of a call that was cut before its name."""
        return delta if self._forced is None else msgspec.structs.replace(delta, content="")
