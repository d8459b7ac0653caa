"""Recurrent states: who has which slot, what is copied where, and which snapshots are found."""

import pytest

from configs.schema import SchedulerConfig
from engine.scheduling.block_allocator import BlockAllocator
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput
from engine.scheduling.sequence_states import SequenceStates
from tests.engine.scheduling.sequences import BLOCK_SIZE, KEY, sequence


class Tier:
    """A KV connector that remembers names."""

    def __init__(self) -> None:
        self.saved: dict[bytes, int] = {}  # name -> block or slot
        self.loaded: list[tuple[bytes, int]] = []

    def holds(self, block_hash: bytes) -> bool:
        return block_hash in self.saved

    def load(self, block_hash: bytes, block: int) -> bool:
        self.loaded.append((block_hash, block))
        return True

    def save(self, block_hash: bytes, block: int) -> None:
        self.saved[block_hash] = block

    def close(self) -> None: ...


def make(
    num_slots: int = 6, interval: int = 2 * BLOCK_SIZE, tiers: tuple[Tier | None, Tier | None] = (None, None)
) -> Scheduler:
    """`tiers`: of blocks and of states."""
    states = SequenceStates(num_slots, BLOCK_SIZE, interval, tiers[1])
    blocks = BlockAllocator(32, BLOCK_SIZE, KEY, tiers[0], states)
    return Scheduler(SchedulerConfig(), blocks, max_model_len=1000)


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


def test_a_snapshot_is_saved_when_the_step_has_begun_that_makes_it() -> None:
    tier = Tier()
    scheduler = make(tiers=(None, tier))
    scheduler.add(sequence(0, PROMPT))
    saved = []
    for _ in range(4):
        step(scheduler)
        saved.append(list(tier.saved.values()))
    assert saved == [[], [], [1], [1, 2]]  # the steps copy nothing, to 1, to 2, and nothing
    hashes = scheduler.running[0].block_hashes
    assert list(tier.saved) == [hashes[1], hashes[2]]


def with_a_snapshot(num_slots: int, tier: Tier) -> tuple[Scheduler, SequenceStates]:
    """A prompt after two steps, the second of which has made a snapshot."""
    scheduler = make(num_slots, tiers=(None, tier))
    scheduler.add(sequence(0, PROMPT))
    for _ in range(2):
        step(scheduler)
    assert scheduler.blocks.states is not None
    return scheduler, scheduler.blocks.states


def test_a_snapshot_that_is_evicted_before_it_is_saved_is_not_saved() -> None:
    tier = Tier()
    scheduler, states = with_a_snapshot(2, tier)
    states.pool.allocate()
    scheduler.schedule()
    assert not tier.saved


def test_another_engine_goes_on_from_what_was_saved() -> None:
    tiers = Tier(), Tier()
    starts, copies = [], []
    for _ in range(2):
        scheduler = make(tiers=tiers)
        scheduler.add(sequence(0, PROMPT))
        steps = [step(scheduler) for _ in range(4)]
        starts.append(steps[0].sequences[0].start)
        copies.append(steps[0].state_copies)
    assert starts == [0, 3 * BLOCK_SIZE] and len(tiers[0].loaded) == 3
    ((_, slot),) = tiers[1].loaded
    assert copies == [(), ((slot, scheduler.running[0].state),)]


def test_no_snapshot_is_loaded_where_a_copy_is_still_to_come() -> None:
    """Copies are made before the next step, after the load: one would overwrite it, or copy it elsewhere."""
    tier = Tier()
    scheduler, states = with_a_snapshot(3, tier)
    seq = scheduler.running[0]
    scheduler.blocks.keep_state(seq)  # its copy is still to come
    new, old = (states.pool.snapshot(seq.block_hashes[at]) for at in (2, 1))
    assert new is not None and old is not None
    states.pool.touch(old)  # so that the new one is taken first
    tier.saved[b"elsewhere"] = 0
    assert not states.restore([b"elsewhere"], 0) and not tier.loaded
    states.take_copies()
    assert states.restore([b"elsewhere"], 0) and tier.loaded == [(b"elsewhere", new)]
