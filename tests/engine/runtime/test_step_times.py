import pytest

from engine.runtime.step_times import FIRST_S, StepTimes


def test_before_anything_is_known_a_step_may_take_long():
    assert StepTimes().limit_s(5) == FIRST_S


def test_no_step_hangs_within_two_seconds():
    times = StepTimes()
    times.note(4, 0.01)
    assert times.limit_s(4) == times.limit_s(7) == 2.0


def test_a_step_may_take_four_times_what_the_longest_of_its_size_took():
    times = StepTimes()
    for took_s in (1.0, 3.0, 2.95):
        times.note(300, took_s)
    assert times.limit_s(511) == pytest.approx(11.8)


def test_a_step_that_compiled_kernels_is_forgotten():
    times = StepTimes()
    times.note(300, 20.0)
    for _ in range(200):
        times.note(300, 0.1)
    assert times.limit_s(300) == 2.0
    assert times.knows(511) and not times.knows(512)


def test_a_larger_step_may_take_longer_by_its_tokens():
    times = StepTimes()
    times.note(16, 1.0)
    assert times.limit_s(512) == pytest.approx(4.0 * 32)
    times.note(256, 2.0)
    assert times.limit_s(512) == pytest.approx(4.0 * 4)


def test_a_smaller_step_may_take_no_longer_than_the_quickest_known():
    times = StepTimes()
    times.note(512, 5.0)
    assert times.limit_s(1) == pytest.approx(20.0)
