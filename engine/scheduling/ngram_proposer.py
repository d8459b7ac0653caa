"""Proposers of draft tokens for speculative decoding, and the n-gram proposer: prompt lookup (Saxena 2023).

A draft token costs one row of a step and is accepted only if the sampler chooses the same token: outputs are the same,
in fewer steps.
"""

from collections.abc import Sequence
from typing import Protocol

__all__ = ["NgramProposer", "Proposer"]


class Proposer(Protocol):
    """Proposes draft tokens for one sequence."""

    def propose(self, tokens: Sequence[int], num_known: int, most: int) -> tuple[int, ...]:
        """At most `most` tokens that may follow the first `num_known` ones: those of the last call, and more."""
        ...


class NgramProposer(Proposer):
    """Proposes what followed the same n tokens the last time, by one hash lookup."""

    __slots__ = ("_next", "_num_seen", "_size")

    def __init__(self, size: int) -> None:
        """`size`: the n of the n-grams, at least 1."""
        self._size = size
        self._next: dict[tuple[int, ...], int] = {}  # n-gram -> the position behind its last occurrence
        self._num_seen = size

    def propose(self, tokens: Sequence[int], num_known: int, most: int) -> tuple[int, ...]:
        size = self._size
        for at in range(self._num_seen, num_known):
            self._next[tuple(tokens[at - size : at])] = at
        self._num_seen = max(self._num_seen, num_known)
        found = self._next.get(tuple(tokens[max(0, num_known - size) : num_known]))
        return tuple(tokens[found : min(found + most, num_known)]) if found is not None and most > 0 else ()
