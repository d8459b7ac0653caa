"""Harmony parser: splits gpt-oss's output, messages in channels, into reasoning, content and tool-call deltas.

    <|channel|>analysis<|message|>I think.<|end|><|start|>assistant<|channel|>final<|message|>Hello.
    <|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>

The header decides: a message to a function is a call, one in the channel analysis is reasoning, any other is content.
"""

import re
from collections.abc import Collection
from random import Random, SystemRandom

from serve_app.text.markers import split_at_marker
from serve_app.text.message_delta import MessageDelta, ToolCallDelta
from serve_app.text.reasoning_parser import ReasoningPosition
from serve_app.tools.json_call import JsonValue

__all__ = ["HarmonyParser"]

BEGINS = ("<|start|>", "<|channel|>")
ENDS = ("<|end|>", "<|call|>", "<|return|>")
MESSAGE = "<|message|>"
ADDRESS = "to="


class HarmonyParser:
    """The messages of one answer. A call of an unknown tool is content."""

    def __init__(
        self, names: Collection[str], position: ReasoningPosition, max_calls: int | None, random: Random | None = None
    ) -> None:
        self._names = names
        self._max_calls = max_calls
        self._random = random or SystemRandom()
        self._buffer = ""
        self._head: str | None = None  # header of the message that begins, so far
        self._is_begun = position != "before"
        self._kind = "reasoning" if position == "inside" else "content"
        self._arguments: JsonValue | None = None
        self._is_whole = True  # the last call
        self.num_calls = 0

    @property
    def is_reasoning(self) -> bool:
        return self._head is None and self._kind == "reasoning"

    @property
    def is_complete(self) -> bool:
        return self.num_calls > 0 and self._is_whole

    def push(self, text: str) -> MessageDelta:
        delta = MessageDelta()
        self._buffer += text
        while self._buffer and (self._read_head(delta) if self._head is not None else self._read_body(delta)):
            pass
        return delta

    def flush(self) -> MessageDelta:
        delta = MessageDelta()
        if self._head is None:
            self._add(delta, self._buffer)
        self._buffer = ""
        return delta

    def _read_body(self, delta: MessageDelta) -> bool:
        if not self._is_begun:
            seen = self._buffer.lstrip()
            if len(seen) < len(ADDRESS) and ADDRESS.startswith(seen):
                return False
            self._is_begun = True
            if seen.startswith(ADDRESS):  # the prompt has begun the header
                self._head = ""
                return True
        text, marker, self._buffer = split_at_marker(self._buffer, (*BEGINS, *ENDS, MESSAGE))
        self._add(delta, text)
        if marker in BEGINS:
            self._head = ""
        elif marker in ENDS:
            self._kind = "content"
        return marker is not None

    def _read_head(self, delta: MessageDelta) -> bool:
        text, marker, rest = split_at_marker(self._buffer, (MESSAGE, *ENDS))
        if marker is None:
            return False
        head, self._head, self._buffer = f"{self._head}{text}", None, rest
        if marker in ENDS:  # a header without a body
            return True
        called = re.search(r"to=functions\.(\S+?)(?=\s|<\||$)", head)
        channel = head.rpartition("<|channel|>")[2].split()
        if called is not None and called[1] in self._names:
            self._begin_call(delta, called[1])
        else:
            self._kind = "reasoning" if channel and channel[0].startswith("analysis") else "content"
        return True

    def _begin_call(self, delta: MessageDelta, name: str) -> None:
        self._kind, self._arguments, self._is_whole = "call", None, False
        self.num_calls += 1
        if self._keeps:
            id_ = f"call_{self._random.getrandbits(96):024x}"
            delta.tool_calls += (ToolCallDelta(self.num_calls - 1, "", id_, name, len(delta.content)),)

    def _add(self, delta: MessageDelta, text: str) -> None:
        match self._kind:
            case "reasoning":
                delta.reasoning += text
            case "content":
                delta.content += text
            case "call":
                self._add_arguments(delta, text)

    def _add_arguments(self, delta: MessageDelta, text: str) -> None:
        """The arguments up to their end; text behind them is dropped."""
        kept = ""
        for char in text:
            if self._is_whole:
                break
            if self._arguments is None:
                if char.isspace():
                    continue
                self._arguments = JsonValue(char)
                kept += char
                continue
            kept += char
            self._is_whole = self._arguments.step(char)
        if kept and self._keeps:
            delta.tool_calls += (ToolCallDelta(self.num_calls - 1, kept, after=len(delta.content)),)

    @property
    def _keeps(self) -> bool:
        return self._max_calls is None or self.num_calls <= self._max_calls
