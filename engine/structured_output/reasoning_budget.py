"""The reasoning budget: ends an answer's reasoning after so many tokens. A function of the tokens alone."""

from collections.abc import Iterable, Sequence

from engine.structured_output.token_marker import TokenMarker
from engine.types import ReasoningBudget

__all__ = ["Thinking"]


class Thinking:
    """One answer's place in its thinking, which comes once.

    before --begins--> inside --ends--> after

    `forced` is the token that must come next, None while any may.
    """

    __slots__ = ("_budget", "_inside", "_marker", "_num_tokens", "_then")

    def __init__(self, limit: ReasoningBudget, output: Iterable[int] = (), words: Sequence[bytes] = ()) -> None:
        """`words` is what each token id stands for: other tokens that spell a marker are it too."""
        ends = TokenMarker(limit.ends, words)
        self._inside = not limit.begins
        self._marker: TokenMarker | None = (
            TokenMarker(limit.begins, words) if limit.begins else ends
        )  # that is waited for
        self._then = ends if limit.begins else None  # and after it
        self._budget = limit.budget
        self._num_tokens = 0  # thought
        for token in output:
            self.consume(token)

    @property
    def forced(self) -> int | None:
        """An ending that the model has begun is finished, not begun again."""
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
