"""A token bucket: so many units a minute, a minute's worth of them at once."""

from collections.abc import Callable

__all__ = ["TokenBucket"]

PER_S = 1 / 60


class TokenBucket:
    """Takes what is asked for as long as anything is left, so the level may go below zero and has to fill up again."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._level, self._filled_s = float(per_minute), clock()

    @property
    def remaining(self) -> int:
        """Units that may be taken now."""
        self._fill()
        return max(0, int(self._level))

    @property
    def wait_s(self) -> float:
        """Seconds until there is a unit to take; 0 where there is one."""
        self._fill()
        return max(0.0, (1 - self._level) / (self._per_minute * PER_S))

    def take(self, count: int) -> None:
        self._fill()
        self._level -= count

    def _fill(self) -> None:
        now_s = self._clock()
        self._level = min(self._per_minute, self._level + (now_s - self._filled_s) * self._per_minute * PER_S)
        self._filled_s = now_s
