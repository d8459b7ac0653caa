"""The watchdog: detects a hung engine and a stopped rank by the age of their last finished steps."""

from typing import Protocol

from engine.parallel.worker_commands import RankHeartbeat
from engine.types import StepAges

__all__ = ["Watched", "Watchdog"]

RANK_SILENCE_S = 2.0  # of a rank without a heartbeat, while the others wait for it


class Watched(Protocol):
    """The part of EngineThread that the watchdog reads."""

    num_steps: int
    is_in_step: bool

    @property
    def limit_s(self) -> float: ...

    @property
    def is_step_known(self) -> bool: ...

    def rank_heartbeats(self) -> tuple[RankHeartbeat, ...]: ...


class Watchdog:
    """Looks once per heartbeat period, and adds up only the time between looks: time in which this process or its
    machine was suspended does not count.

    An engine hangs when its step takes longer than `limit_s` (engine/runtime/step_times.py). A rank counts as stopped
    when it sends no heartbeat for RANK_SILENCE_S while there is work. In the first step of a size a rank may compile
    kernels, and be silent for as long as the step may take.
    """

    def __init__(self, watched: Watched, period_s: float) -> None:
        self.alarm: str | None = None  # the failure, once detected
        self._watched = watched
        self._longest_s = 2 * period_s  # the most that counts of the time between two looks
        self._last_s: float | None = None
        self._engine = _Wait()
        self._ranks: list[_Wait] = []

    def look(self, now_s: float) -> StepAges:
        """The ages of the last steps now."""
        watched, heartbeats = self._watched, self._watched.rank_heartbeats()
        passed_s = min(now_s - self._last_s, self._longest_s) if self._last_s is not None else 0.0
        self._last_s = now_s
        self._ranks += [_Wait() for _ in heartbeats[len(self._ranks) :]]
        # a rank without any heartbeat yet is still loading
        heard = [beat.num_heartbeats or None for beat in heartbeats]
        silences_s = [wait.look(count, passed_s) for wait, count in zip(self._ranks, heard, strict=True)]
        engine_s = self._engine.look(watched.num_steps if watched.is_in_step else None, passed_s)
        limit_s = watched.limit_s
        if watched.is_in_step and self.alarm is None:
            self.alarm = self._judge(engine_s, limit_s, silences_s)
        ages_s = tuple(beat.age_s + silence_s for beat, silence_s in zip(heartbeats, silences_s, strict=True))
        return StepAges(engine_s, limit_s, ages_s)

    def _judge(self, engine_s: float, limit_s: float, silences_s: list[float]) -> str | None:
        if engine_s > limit_s:
            return f"the engine has not finished a step for {engine_s:.1f} s"
        most_s = min(RANK_SILENCE_S, limit_s) if self._watched.is_step_known else limit_s
        for rank, silence_s in enumerate(silences_s, 1):
            if silence_s > most_s:
                return f"rank {rank} has been silent for {silence_s:.1f} s"
        return None


class _Wait:
    """How long a counter has not changed."""

    def __init__(self) -> None:
        self._count: int | None = None
        self._waited_s = 0.0

    def look(self, count: int | None, passed_s: float) -> float:
        """Seconds without a change. `count` is None while nothing is waited for."""
        self._waited_s = self._waited_s + passed_s if count is not None and count == self._count else 0.0
        self._count = count
        return self._waited_s
