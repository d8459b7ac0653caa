"""The time limit of a step, beyond which it counts as hung, from the times of earlier steps of its size."""

__all__ = ["StepTimes"]

LEAST_S = 2.0  # the least limit
FACTOR = 4.0  # the limit as a multiple of the longest step of its size: other processes use the machine, too
FIRST_S = 120.0  # the limit before any step has finished: kernels may be compiled in it
KEPT = 0.98  # decay of the longest time per step: one that compiled kernels has no effect after some hundred


class StepTimes:
    """Sizes are powers of two of tokens. Written by one thread, read by others."""

    def __init__(self) -> None:
        self._longest_s: dict[int, float] = {}  # by the bits of the number of tokens

    def note(self, num_tokens: int, took_s: float) -> None:
        size = num_tokens.bit_length()
        self._longest_s[size] = max(took_s, KEPT * self._longest_s.get(size, 0.0))

    def knows(self, num_tokens: int) -> bool:
        """Whether a step of this size has finished, so that the next one compiles nothing."""
        return num_tokens.bit_length() in self._longest_s

    def limit_s(self, num_tokens: int) -> float:
        """The limit in seconds. An unseen size scales, per token, from the next smaller one that was seen."""
        size = num_tokens.bit_length()
        known = dict(self._longest_s)
        nearest = max((other for other in known if other <= size), default=None)
        if nearest is None:
            return max(LEAST_S, FACTOR * min(known.values())) if known else FIRST_S
        return max(LEAST_S, FACTOR * known[nearest] * 2.0 ** (size - nearest))
