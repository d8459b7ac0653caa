"""The n-gram proposer: draft tokens for speculative decoding by prompt lookup (Saxena 2023).

A draft token costs a row of one step and is accepted only as far as the sampler chooses the same tokens: what comes out
does not change, the number of steps does.
"""

from collections.abc import Sequence

__all__ = ["NgramProposer"]


class NgramProposer:
    """Proposes for one sequence: a hash lookup, however long the sequence is."""

    __slots__ = ("_next", "_num_seen", "_size")

    def __init__(self, size: int) -> None:
        """`size` tokens must be the same, at least 1."""
        self._size = size
        self._next: dict[tuple[int, ...], int] = {}  # the tokens -> where those after them begin, the last time
        self._num_seen = size

    def propose(self, tokens: Sequence[int], most: int) -> tuple[int, ...]:
        """At most `most` tokens that may follow. `tokens` are those of the last call and more."""
        size = self._size
        for at in range(self._num_seen, len(tokens)):
            self._next[tuple(tokens[at - size : at])] = at
        self._num_seen = max(self._num_seen, len(tokens))
        found = self._next.get(tuple(tokens[-size:]))
        return tuple(tokens[found : found + most]) if found is not None and most > 0 else ()
