"""A token bucket: a rate per minute, with bursts of a minute's worth."""

from collections.abc import Callable

__all__ = ["TokenBucket"]

PER_S = 1 / 60


class TokenBucket:
    """A take succeeds while anything is left, so the level may go below zero and must refill first."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._level, self._filled_s = float(per_minute), clock()

    @property
    def remaining(self) -> int:
        """The units that may be taken now."""
        self._fill()
        return max(0, int(self._level))

    @property
    def wait_s(self) -> float:
        """Seconds until a unit is available; 0 if one is."""
        self._fill()
        return max(0.0, (1 - self._level) / (self._per_minute * PER_S))

    def take(self, count: int) -> None:
        self._fill()
        self._level -= count

    def _fill(self) -> None:
        now_s = self._clock()
        self._level = min(self._per_minute, self._level + (now_s - self._filled_s) * self._per_minute * PER_S)
        self._filled_s = now_s
