"""Where in an answer the grammar begins: after the reasoning, if there is any. A function of the tokens."""

import copy
from collections.abc import Sequence
from typing import Literal

from engine.structured_output.token_marker import TokenMarker

__all__ = ["GrammarStart"]


class GrammarStart:
    """The place of one answer's output relative to its reasoning, which comes first and once, or not at all.

    before --opens--> inside --ends--> after
       \\--anything else, but blanks-----^

    opens         the start marker's tokens; (): the answer begins inside
    ends          the end marker's tokens; (): there is no reasoning
    token_bytes   the bytes of each token id: other tokens that spell the end marker end it too
    """

    __slots__ = ("_matched", "_opens", "_words", "ends", "place")

    def __init__(self, opens: tuple[int, ...], ends: tuple[int, ...], token_bytes: Sequence[bytes]) -> None:
        self.place: Literal["before", "inside", "after"] = "after" if not ends else "before" if opens else "inside"
        self.ends = TokenMarker(ends, token_bytes) if ends else None
        self._opens = opens
        self._words = token_bytes
        self._matched = 0  # tokens of `opens` so far

    def fork(self) -> "GrammarStart":
        forked = copy.copy(self)
        forked.ends = self.ends.fork() if self.ends is not None else None
        return forked

    @property
    def next_token(self) -> int:
        """The next token of the marker that comes next."""
        if self.place == "before":
            return self._opens[self._matched]
        assert self.ends is not None
        return self.ends.next_token

    @property
    def num_left(self) -> int:
        """The fewest tokens until the place is "after", if the reasoning is opened and ended at once."""
        if self.place == "after" or self.ends is None:
            return 0
        return self.ends.num_left + (len(self._opens) - self._matched if self.place == "before" else 0)

    def num_left_after(self, token: int) -> int:
        """The same after one more token inside."""
        return self.ends.num_left_after(token) if self.ends is not None else 0

    def consume(self, token: int, *, may_open: bool = True) -> None:
        """`may_open`: before the reasoning its start marker opens it; else the marker is text like any other."""
        if self.place == "before":
            self._open(token, may_open)
        elif self.place == "inside" and self.ends is not None and self.ends.consume(token):
            self.place = "after"

    def _open(self, token: int, may_open: bool) -> None:
        if may_open and token == self.next_token:
            self._matched += 1
            if self._matched == len(self._opens):
                self.place = "inside"
        elif self._matched or not self._words[token].isspace():
            self.place = "after"
