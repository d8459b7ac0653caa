"""Reads gpt-oss's answers: messages in channels.

    <|channel|>analysis<|message|>I think.<|end|><|start|>assistant<|channel|>final<|message|>Hello.
    <|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>

A head tells what a message is: to a function, it is a call; in the channel analysis it is thinking; else it is content.
"""

import re
from collections.abc import Collection
from random import Random, SystemRandom

from serve_app.text.markers import split_at_marker
from serve_app.text.said import CallPiece, Said
from serve_app.text.thinking import Place
from serve_app.tools.json_call import JsonValue

__all__ = ["HarmonyParser"]

BEGINS = ("<|start|>", "<|channel|>")
ENDS = ("<|end|>", "<|call|>", "<|return|>")
MESSAGE = "<|message|>"
ADDRESS = "to="


class HarmonyParser:
    """The messages of one answer. A call of no known tool is content."""

    def __init__(
        self, names: Collection[str], place: Place, max_calls: int | None, random: Random | None = None
    ) -> None:
        self._names = names
        self._max_calls = max_calls
        self._random = random or SystemRandom()
        self._held = ""
        self._head: str | None = None  # of the message that begins, so far
        self._is_begun = place != "before"
        self._kind = "reasoning" if place == "inside" else "content"
        self._arguments: JsonValue | None = None
        self._is_whole = True  # the last call
        self.num_calls = 0

    @property
    def is_thinking(self) -> bool:
        return self._head is None and self._kind == "reasoning"

    @property
    def is_complete(self) -> bool:
        return self.num_calls > 0 and self._is_whole

    def push(self, text: str) -> Said:
        said = Said()
        self._held += text
        while self._held and (self._read_head(said) if self._head is not None else self._read_body(said)):
            pass
        return said

    def flush(self) -> Said:
        said = Said()
        if self._head is None:
            self._say(said, self._held)
        self._held = ""
        return said

    def _read_body(self, said: Said) -> bool:
        if not self._is_begun:
            seen = self._held.lstrip()
            if len(seen) < len(ADDRESS) and ADDRESS.startswith(seen):
                return False
            self._is_begun = True
            if seen.startswith(ADDRESS):  # the prompt has begun the head
                self._head = ""
                return True
        text, marker, self._held = split_at_marker(self._held, (*BEGINS, *ENDS, MESSAGE))
        self._say(said, text)
        if marker in BEGINS:
            self._head = ""
        elif marker in ENDS:
            self._kind = "content"
        return marker is not None

    def _read_head(self, said: Said) -> bool:
        text, marker, rest = split_at_marker(self._held, (MESSAGE, *ENDS))
        if marker is None:
            return False
        head, self._head, self._held = f"{self._head}{text}", None, rest
        if marker in ENDS:  # a head and nothing more
            return True
        called = re.search(r"to=functions\.(\S+?)(?=\s|<\||$)", head)
        channel = head.rpartition("<|channel|>")[2].split()
        if called is not None and called[1] in self._names:
            self._begin_call(said, called[1])
        else:
            self._kind = "reasoning" if channel and channel[0].startswith("analysis") else "content"
        return True

    def _begin_call(self, said: Said, name: str) -> None:
        self._kind, self._arguments, self._is_whole = "call", None, False
        self.num_calls += 1
        if self._keeps:
            said.calls += (CallPiece(self.num_calls - 1, "", f"call_{self._random.getrandbits(96):024x}", name),)

    def _say(self, said: Said, text: str) -> None:
        match self._kind:
            case "reasoning":
                said.reasoning += text
            case "content":
                said.content += text
            case "call":
                self._say_arguments(said, text)

    def _say_arguments(self, said: Said, text: str) -> None:
        """The arguments up to their end; what stands behind them is dropped."""
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
            said.calls += (CallPiece(self.num_calls - 1, kept),)

    @property
    def _keeps(self) -> bool:
        return self._max_calls is None or self.num_calls <= self._max_calls
