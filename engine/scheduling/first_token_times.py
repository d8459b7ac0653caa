"""Time to first token (TTFT), as a mean over a sliding window, for autoscaling and the status."""

import time
from collections import deque

__all__ = ["FirstTokenTimes"]

WINDOW_S = 30.0


class FirstTokenTimes:
    def __init__(self) -> None:
        self._times: deque[tuple[float, float]] = deque(maxlen=256)  # (when, after how long), in seconds

    def add(self, took_s: float) -> None:
        self._times.append((time.monotonic(), took_s))

    def mean_s(self) -> float:
        """Over the last WINDOW_S; 0 if there was none."""
        horizon_s = time.monotonic() - WINDOW_S
        while self._times and self._times[0][0] < horizon_s:
            self._times.popleft()
        return sum(took_s for _, took_s in self._times) / max(1, len(self._times))
