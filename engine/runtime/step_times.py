"""How long a step may take before it counts as hung, by what steps of its size have taken."""

__all__ = ["StepTimes"]

LEAST_S = 2.0  # no step hangs before
FACTOR = 4.0  # so many times the longest step of its size may one take: others use the machine, too
FIRST_S = 120.0  # where no step is known yet: kernels may be compiled in it
KEPT = 0.98  # of the longest, with each further step: one that compiled kernels is forgotten after some hundred


class StepTimes:
    """Sizes are powers of two of tokens. Written by one thread, read by others."""

    def __init__(self) -> None:
        self._longest_s: dict[int, float] = {}  # by the bits of the number of tokens

    def note(self, num_tokens: int, took_s: float) -> None:
        size = num_tokens.bit_length()
        self._longest_s[size] = max(took_s, KEPT * self._longest_s.get(size, 0.0))

    def knows(self, num_tokens: int) -> bool:
        """Whether a step of this size has finished: the next one compiles nothing."""
        return num_tokens.bit_length() in self._longest_s

    def limit_s(self, num_tokens: int) -> float:
        """A step of a size that was not seen takes, per token, at most what the next smaller one took."""
        size = num_tokens.bit_length()
        known = dict(self._longest_s)
        nearest = max((other for other in known if other <= size), default=None)
        if nearest is None:
            return max(LEAST_S, FACTOR * min(known.values())) if known else FIRST_S
        return max(LEAST_S, FACTOR * known[nearest] * 2.0 ** (size - nearest))
