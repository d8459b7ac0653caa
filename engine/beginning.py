"""Where in an answer its grammar begins: after the thinking, if there is any. A function of the tokens alone."""

from collections.abc import Callable
from typing import Literal

__all__ = ["Beginning"]


class Beginning:
    """One answer's thinking, which comes once and first, or not at all.

    before --opens--> inside --ends--> after
       \\--anything else, but blanks-----^

    opens      the tokens that open it; (): the answer begins inside
    ends       the tokens that end it; (): there is none
    is_blank   whether a token is white space alone
    """

    __slots__ = ("_ends", "_is_blank", "_matched", "_opens", "place")

    def __init__(self, opens: tuple[int, ...], ends: tuple[int, ...], is_blank: Callable[[int], bool]) -> None:
        self.place: Literal["before", "inside", "after"] = "after" if not ends else "before" if opens else "inside"
        self._opens, self._ends = opens, ends
        self._is_blank = is_blank
        self._matched = 0  # tokens of the marker waited for that were said last

    @property
    def next_token(self) -> int:
        """Of the marker that is waited for."""
        return (self._opens if self.place == "before" else self._ends)[self._matched]

    @property
    def num_left(self) -> int:
        """Tokens until the place after the thinking, if it is opened and ended at once."""
        return {"before": len(self._opens) + len(self._ends), "inside": len(self._ends), "after": 0}[
            self.place
        ] - self._matched

    def num_left_after(self, token: int) -> int:
        """The same, if a token comes inside."""
        return len(self._ends) - self._matched_with(token)

    def consume(self, token: int, *, may_open: bool = True) -> None:
        """`may_open`: before the thinking, its marker is one; else it is text like any other."""
        if self.place == "before":
            self._open(token, may_open)
        elif self.place == "inside":
            self._matched = self._matched_with(token)
            if self._matched == len(self._ends):
                self.place, self._matched = "after", 0

    def _open(self, token: int, may_open: bool) -> None:
        if may_open and token == self.next_token:
            self._matched += 1
            if self._matched == len(self._opens):
                self.place, self._matched = "inside", 0
        elif self._matched or not self._is_blank(token):
            self.place, self._matched = "after", 0

    def _matched_with(self, token: int) -> int:
        """How many of the tokens that end it have been said last, if this one comes next."""
        said = (*self._ends[: self._matched], token)
        sizes = range(min(len(said), len(self._ends)), 0, -1)
        return next((size for size in sizes if said[-size:] == self._ends[:size]), 0)
