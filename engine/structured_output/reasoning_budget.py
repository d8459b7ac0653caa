"""The reasoning budget: ends an answer's reasoning after so many tokens. A function of the tokens alone."""

import copy
from collections.abc import Iterable, Sequence

from engine.structured_output.token_marker import TokenMarker
from engine.types import ReasoningBudget

__all__ = ["ReasoningTracker"]


class ReasoningTracker:
    """One answer's reasoning, which comes once.

    before --begins--> inside --ends--> after

    `forced` is the token that must come next; None: any may.
    """

    __slots__ = ("_budget", "_inside", "_marker", "_num_tokens", "_then")

    def __init__(self, limit: ReasoningBudget, output: Iterable[int] = (), token_bytes: Sequence[bytes] = ()) -> None:
        """`token_bytes` has the bytes of each token id: other tokens that spell a marker count as the marker."""
        ends = TokenMarker(limit.ends, token_bytes)
        self._inside = not limit.begins
        # the marker that comes next, and the one after it
        self._marker: TokenMarker | None = TokenMarker(limit.begins, token_bytes) if limit.begins else ends
        self._then = ends if limit.begins else None
        self._budget = limit.budget
        self._num_tokens = 0  # of reasoning so far
        for token in output:
            self.consume(token)

    def fork(self) -> "ReasoningTracker":
        forked = copy.copy(self)
        forked._marker = self._marker.fork() if self._marker is not None else None
        return forked  # the marker after it has not begun

    @property
    def forced(self) -> int | None:
        """The next token of the end marker once the budget is used up, behind what the model wrote of it itself."""
        if self._marker is None or not self._inside or self._num_tokens < self._budget:
            return None
        return self._marker.next_token

    def consume(self, token: int) -> None:
        if self._marker is None:
            return
        self._num_tokens += self._inside
        if self._marker.consume(token):
            self._marker, self._then = self._then, None
            self._inside = True
