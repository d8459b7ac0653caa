"""Repetition detection: whether an answer repeats a pattern of tokens (vLLM's RepetitionDetectionParams)."""

from collections.abc import Sequence

from engine.types import RepetitionLimit

__all__ = ["ends_in_repetition"]


def ends_in_repetition(tokens: Sequence[int], begin: int, limit: RepetitionLimit) -> bool:
    """Whether the tokens from `begin` on end with one pattern, `limit.min_count` times in a row.

    ... 7 [3 5] [3 5] [3 5]     the pattern 3 5, three times
    """
    for size in range(limit.min_size, limit.max_size + 1):
        first = len(tokens) - size * limit.min_count
        if first < begin:
            return False
        if tokens[-1] == tokens[-1 - size] and tokens[first:-size] == tokens[first + size :]:
            return True
    return False
