"""Who is declared hung, and who is only slow: time is told, nobody waits."""

import pytest

from engine.parallel.worker_commands import RankHeartbeat
from engine.runtime.watchdog import Watchdog
from engine.types import StepAges

PERIOD_S = 0.25


class Fake:
    """An engine of two ranks, in a step of a size that is known."""

    def __init__(self) -> None:
        self.num_steps, self.is_in_step = 7, True
        self.limit_s, self.is_step_known = 8.0, True
        self.count, self.age_s = 3, 0.0

    def rank_heartbeats(self) -> tuple[RankHeartbeat, ...]:
        return (RankHeartbeat(self.count, self.age_s),)


class Watch:
    """A watchdog that looks each PERIOD_S."""

    def __init__(self) -> None:
        self.fake, self.now_s = Fake(), 100.0
        self.dog = Watchdog(self.fake, PERIOD_S)
        self.ages = self.dog.look(self.now_s)

    def wait(self, seconds: float, *, heartbeats: bool = True, steps: bool = False) -> StepAges:
        for _ in range(round(seconds / PERIOD_S)):
            self.now_s += PERIOD_S
            self.fake.count += heartbeats
            self.fake.num_steps += steps
            self.ages = self.dog.look(self.now_s)
        return self.ages


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_an_engine_hangs_beyond_its_limit(watch: Watch) -> None:
    assert watch.wait(8.0) == StepAges(8.0, 8.0, (0.0,)) and watch.dog.alarm is None
    watch.wait(PERIOD_S)
    assert watch.dog.alarm == "the engine has not finished a step for 8.2 s"


def test_an_engine_that_steps_or_has_no_work_is_young(watch: Watch) -> None:
    assert watch.wait(60.0, steps=True).engine_s == 0.0
    watch.fake.is_in_step = False
    assert watch.wait(60.0).engine_s == 0.0
    watch.fake.is_in_step = True
    watch.wait(8.0)
    assert watch.dog.alarm is None


def test_a_silent_rank_is_lost_after_two_seconds_though_the_step_may_take_longer(watch: Watch) -> None:
    assert watch.wait(2.0, heartbeats=False).ranks_s == (2.0,)
    assert watch.dog.alarm is None
    watch.wait(PERIOD_S, heartbeats=False)
    assert watch.dog.alarm == "rank 1 has been silent for 2.2 s"


def test_a_rank_that_computes_for_long_is_waited_for_and_told_of(watch: Watch) -> None:
    watch.fake.age_s = 5.0
    assert watch.wait(5.0).ranks_s == (5.0,)
    assert watch.dog.alarm is None


def test_a_rank_that_compiles_in_the_first_step_of_a_size_may_be_silent(watch: Watch) -> None:
    watch.fake.is_step_known = False
    watch.wait(8.0, heartbeats=False)
    assert watch.dog.alarm is None


def test_a_rank_that_still_loads_is_not_silent(watch: Watch) -> None:
    watch.fake.count = 0
    assert watch.wait(6.0, heartbeats=False).ranks_s == (0.0,)
    assert watch.dog.alarm is None


def test_a_rank_that_stops_while_there_is_no_work_is_lost_with_the_next_step(watch: Watch) -> None:
    watch.fake.is_in_step = False
    watch.wait(30.0, heartbeats=False)
    assert watch.dog.alarm is None
    watch.fake.is_in_step = True
    watch.wait(PERIOD_S, heartbeats=False)
    assert watch.dog.alarm is not None and watch.dog.alarm.startswith("rank 1")


def test_a_machine_that_was_stopped_as_a_whole_has_not_waited(watch: Watch) -> None:
    watch.now_s += 3600.0
    assert watch.dog.look(watch.now_s).engine_s == 2 * PERIOD_S
    assert watch.dog.alarm is None
