"""When an answer has thought enough. A function of its tokens alone: it goes on exactly after a move."""

from collections.abc import Iterable

from engine.types import ThinkingLimit

__all__ = ["Thinking"]


class Thinking:
    """One answer's place in its thinking, which comes once.

    before --begins--> inside --ends--> after

    `forced` is the token that must come next, None while any may.
    """

    __slots__ = ("_inside", "_limit", "_matched", "_num_tokens", "_over")

    def __init__(self, limit: ThinkingLimit, output: Iterable[int] = ()) -> None:
        self._limit = limit
        self._inside = not limit.begins
        self._over = False
        self._matched = 0  # tokens of the marker waited for that were said last
        self._num_tokens = 0  # thought
        for token in output:
            self.consume(token)

    @property
    def forced(self) -> int | None:
        """An ending that the model has begun is finished, not begun again."""
        is_enough = self._inside and not self._over and self._num_tokens >= self._limit.budget
        return self._limit.ends[self._matched] if is_enough else None

    def consume(self, token: int) -> None:
        if self._over:
            return
        self._num_tokens += self._inside
        marker = self._limit.ends if self._inside else self._limit.begins
        self._matched = self._matched + 1 if token == marker[self._matched] else int(token == marker[0])
        if self._matched == len(marker):
            self._matched = 0
            self._over = self._inside
            self._inside = True
