"""The n-gram proposer: draft tokens for speculative decoding by prompt lookup (Saxena 2023).

A draft token costs one row of a step and is accepted only if the sampler chooses the same token: outputs are the same,
in fewer steps.
"""

from collections.abc import Sequence

__all__ = ["NgramProposer"]


class NgramProposer:
    """Proposes for one sequence, by one hash lookup."""

    __slots__ = ("_next", "_num_seen", "_size")

    def __init__(self, size: int) -> None:
        """`size`: the n of the n-grams, at least 1."""
        self._size = size
        self._next: dict[tuple[int, ...], int] = {}  # n-gram -> the position behind its last occurrence
        self._num_seen = size

    def propose(self, tokens: Sequence[int], most: int) -> tuple[int, ...]:
        """At most `most` draft tokens. `tokens` are those of the last call and more."""
        size = self._size
        for at in range(self._num_seen, len(tokens)):
            self._next[tuple(tokens[at - size : at])] = at
        self._num_seen = max(self._num_seen, len(tokens))
        found = self._next.get(tuple(tokens[-size:]))
        return tuple(tokens[found : found + most]) if found is not None and most > 0 else ()
