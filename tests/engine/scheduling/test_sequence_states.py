"""Recurrent states: who has which slot, what is copied where, and which snapshots are found."""

import pytest

from configs.schema import SchedulerConfig
from engine.scheduling.block_allocator import BlockAllocator
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput
from engine.scheduling.sequence_states import SequenceStates
from tests.engine.scheduling.sequences import BLOCK_SIZE, KEY, sequence


def make(num_slots: int = 6, interval: int = 2 * BLOCK_SIZE, **config: int) -> Scheduler:
    states = SequenceStates(num_slots, BLOCK_SIZE, interval)
    blocks = BlockAllocator(32, BLOCK_SIZE, KEY, states=states)
    return Scheduler(SchedulerConfig(**config), blocks, max_model_len=1000)


def step(scheduler: Scheduler, token: int = 77) -> SchedulerOutput:
    scheduled = scheduler.schedule()
    scheduler.update_after_schedule(scheduled)
    num_samples = sum(one.samples for one in scheduled.sequences)
    scheduler.update_from_output(scheduled, ModelOutput((token,) * num_samples))
    scheduler.check()
    return scheduled


def computed(scheduled: SchedulerOutput) -> list[tuple[int, int, int, int]]:
    """(sequence, first position, tokens, slot)"""
    return [(one.seq_id, one.start, len(one.tokens), one.state) for one in scheduled.sequences]


PROMPT = list(range(1, 3 * BLOCK_SIZE + 3))  # three blocks and two tokens


def test_a_prompt_is_cut_where_snapshots_are_due() -> None:
    scheduler = make()
    scheduler.add(sequence(0, PROMPT))
    steps = [step(scheduler) for _ in range(4)]
    assert [computed(one) for one in steps] == [
        [(0, 0, 2 * BLOCK_SIZE, 0)],  # an interval
        [(0, 2 * BLOCK_SIZE, BLOCK_SIZE, 0)],  # the prompt's last border
        [(0, 3 * BLOCK_SIZE, 2, 0)],
        [(0, 3 * BLOCK_SIZE + 2, 1, 0)],
    ]
    assert [one.state_copies for one in steps] == [(), ((0, 1),), ((0, 2),), ()]


def test_the_pool_knows_how_many_slots_sequences_and_snapshots_have() -> None:
    scheduler = make(num_slots=6)
    scheduler.add(sequence(0, PROMPT))
    for _ in range(4):
        step(scheduler)
    states = scheduler.blocks.states
    assert states is not None
    assert (states.pool.num_slots, states.pool.num_free, states.pool.num_snapshots) == (6, 5, 2)


def test_an_equal_prompt_goes_on_from_the_last_snapshot() -> None:
    scheduler = make()
    scheduler.add(sequence(0, PROMPT))
    for _ in range(4):
        step(scheduler)
    scheduler.add(sequence(1, [*PROMPT, 99, 98]))
    scheduled = step(scheduler)
    assert computed(scheduled)[1] == (1, 3 * BLOCK_SIZE, 4, 3) and scheduled.state_copies == ((2, 3),)
    assert scheduler.running[1].cached_tokens == 3 * BLOCK_SIZE


def test_where_the_last_snapshot_is_gone_an_earlier_one_serves() -> None:
    scheduler = make()
    scheduler.add(sequence(0, PROMPT))
    for _ in range(4):
        step(scheduler)
    scheduler.add(sequence(1, [*PROMPT[: 3 * BLOCK_SIZE - 1], 99, 98, 97]))  # shares two blocks
    assert computed(step(scheduler))[1][:2] == (1, 2 * BLOCK_SIZE)


def test_answers_leave_snapshots_every_interval() -> None:
    scheduler = make(interval=BLOCK_SIZE)
    scheduler.add(sequence(0, [1]))
    copies = [copy for _ in range(3 * BLOCK_SIZE) for copy in step(scheduler).state_copies]
    assert copies == [(0, 1), (0, 2)]


def test_the_least_recently_used_snapshot_gives_its_slot() -> None:
    scheduler = make(num_slots=3, interval=100)
    for seq_id in range(3):
        scheduler.add(sequence(seq_id, [seq_id, *PROMPT]))
        while not step(scheduler).sequences[0].samples:
            pass
        scheduler.remove(scheduler.running[0])
    for seq_id, shared in ((10, 0), (11, 3 * BLOCK_SIZE), (12, 3 * BLOCK_SIZE)):
        scheduler.add(sequence(seq_id, [seq_id - 10, *PROMPT]))
        assert step(scheduler).sequences[0].start == (shared if seq_id != 10 else 0)
        scheduler.remove(scheduler.running[0])


def test_without_prefix_caching_steps_are_not_cut_and_nothing_is_copied() -> None:
    blocks = BlockAllocator(32, BLOCK_SIZE, None, states=SequenceStates(4, BLOCK_SIZE, BLOCK_SIZE))
    scheduler = Scheduler(SchedulerConfig(), blocks, max_model_len=1000)
    scheduler.add(sequence(0, PROMPT))
    scheduled = step(scheduler)
    assert computed(scheduled) == [(0, 0, len(PROMPT), 0)] and not scheduled.state_copies


@pytest.mark.parametrize("taken", [0, 1])
def test_a_preempted_sequence_gets_a_state_again(taken: int) -> None:
    scheduler = make(interval=100)
    scheduler.add(sequence(0, PROMPT))
    for _ in range(2 + taken):
        step(scheduler)
    scheduler._preempt(scheduler.running[0])
    scheduler.check()
    scheduled = step(scheduler)
    assert scheduled.sequences[0].start == 3 * BLOCK_SIZE and scheduled.state_copies
