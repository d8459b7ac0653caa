"""The scheduler alone: which sequence computes which tokens in which blocks, step by step."""

from configs.schema import SchedulerConfig
from engine.scheduling.block_allocator import BlockAllocator
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput
from engine.scheduling.sequence import Sequence
from tests.engine.scheduling.sequences import BLOCK_SIZE, KEY, sequence


def make(num_blocks: int = 16, **config: int) -> Scheduler:
    blocks = BlockAllocator(num_blocks, BLOCK_SIZE, KEY)
    return Scheduler(SchedulerConfig(**config), blocks, max_model_len=1000)


def step(scheduler: Scheduler, token: int = 77) -> list[tuple[int, int, int, tuple[int, ...], bool]]:
    """One step with an executor that samples one token. Per sequence: id, first position, tokens, blocks, samples."""
    scheduled = scheduler.schedule()
    blocks = {seq.seq_id: tuple(seq.blocks[0]) for seq in scheduler.running}
    finish(scheduler, scheduled, token)
    return [(one.seq_id, one.start, len(one.tokens), blocks[one.seq_id], one.samples) for one in scheduled.sequences]


def finish(scheduler: Scheduler, scheduled: SchedulerOutput, token: int = 77) -> list[Sequence | None]:
    scheduler.update_after_schedule(scheduled)
    sampled = scheduler.update_from_output(
        scheduled, ModelOutput((token,) * sum(one.samples for one in scheduled.sequences))
    )
    scheduler.check()
    return sampled


def test_a_long_prompt_is_computed_in_chunks_beside_a_decode() -> None:
    scheduler = make(max_num_batched_tokens=6)
    scheduler.add(sequence(0, [1, 2]))
    assert step(scheduler) == [(0, 0, 2, (0,), True)]
    scheduler.add(sequence(1, list(range(10, 22))))
    assert step(scheduler) == [(0, 2, 1, (0,), True), (1, 0, 5, (1, 2), False)]
    assert step(scheduler) == [(0, 3, 1, (0,), True), (1, 5, 5, (1, 2, 3), False)]
    assert step(scheduler) == [(0, 4, 1, (0, 4), True), (1, 10, 2, (1, 2, 3), True)]
    assert step(scheduler) == [(0, 5, 1, (0, 4), True), (1, 12, 1, (1, 2, 3, 5), True)]


def test_no_more_sequences_run_than_max_num_seqs() -> None:
    scheduler = make(max_num_seqs=2)
    for seq_id in range(3):
        scheduler.add(sequence(seq_id, [seq_id + 1]))
    assert [one[0] for one in step(scheduler)] == [0, 1]
    scheduler.remove(scheduler.running[0])
    assert [one[0] for one in step(scheduler)] == [1, 2]


def test_where_blocks_run_out_the_last_one_is_preempted_and_computes_its_tokens_again() -> None:
    scheduler = make(num_blocks=2)
    scheduler.add(sequence(0, [1, 2, 3, 4]))
    scheduler.add(sequence(1, [5, 6, 7, 8]))
    assert [one[:4] for one in step(scheduler)] == [(0, 0, 4, (0,)), (1, 0, 4, (1,))]
    assert [one[:4] for one in step(scheduler)] == [(0, 4, 1, (0, 1))]  # the block of the other one
    assert scheduler.num_preemptions == 1 and [seq.seq_id for seq in scheduler.waiting] == [1]
    scheduler.remove(scheduler.running[0])
    assert [one[:4] for one in step(scheduler)] == [(1, 0, 5, (1, 0))], "the block that was not cached goes first"


def test_better_priority_takes_the_place_of_what_runs() -> None:
    scheduler = make(max_num_seqs=1)
    scheduler.add(sequence(0, [1, 2], priority=5))
    assert [one[0] for one in step(scheduler)] == [0]
    scheduler.add(sequence(1, [3, 4], priority=0))
    assert [one[0] for one in step(scheduler)] == [1]
    assert [seq.seq_id for seq in scheduler.waiting] == [0]


def test_one_that_begins_alike_waits_for_the_prefix_that_is_being_computed() -> None:
    scheduler = make(max_num_batched_tokens=8)
    scheduler.add(sequence(0, list(range(12))))
    scheduler.add(sequence(1, list(range(12))))
    assert [one[:3] for one in step(scheduler)] == [(0, 0, 8)]
    assert [one[:3] for one in step(scheduler)] == [(0, 8, 4), (1, 8, 4)], "two blocks are shared"
    assert scheduler.running[1].cached_tokens == 8


def test_a_removed_sequence_is_told_to_the_sampler_and_its_result_is_dropped() -> None:
    scheduler = make()
    scheduler.add(sequence(0, [1]))
    scheduled = scheduler.schedule()
    assert [new.seq_id for new in scheduled.new_sequences] == [0]
    scheduler.remove(scheduler.running[0])
    assert finish(scheduler, scheduled) == [None]
    scheduler.add(sequence(1, [1]))
    assert scheduler.schedule().finished_ids == (0,)


def test_draft_tokens_take_what_is_left_of_the_budget() -> None:
    scheduler = make(max_num_batched_tokens=3, num_speculative_tokens=5, prompt_lookup_min=2)
    scheduler.add(sequence(0, [1, 2, 3, 1, 2], max_tokens=20))
    step(scheduler)
    step(scheduler, token=3)  # 1 2 3 1 2 3: what followed 2 3 the last time was 1 2 3
    (drafted,) = scheduler.schedule().sequences
    assert (drafted.tokens, drafted.num_draft_tokens) == ((3, 1, 2), 2)


def test_a_short_prompt_does_not_wait_for_long_ones() -> None:
    scheduler = make(num_blocks=64, max_num_batched_tokens=8)
    for seq_id, length in enumerate((30, 31, 3)):
        scheduler.add(sequence(seq_id, list(range(100 * seq_id, 100 * seq_id + length))))
    assert [(one[0], one[2], one[4]) for one in step(scheduler)] == [(0, 5, False), (2, 3, True)]
    assert [(one[0], one[2]) for one in step(scheduler)] == [(0, 7), (2, 1)]


def test_prompts_of_one_length_are_computed_one_after_the_other() -> None:
    scheduler = make(num_blocks=64, max_num_batched_tokens=8)
    for seq_id in range(3):
        scheduler.add(sequence(seq_id, list(range(100 * seq_id, 100 * seq_id + 12))))
    assert [(one[0], one[2]) for one in step(scheduler)] == [(0, 8)]
    assert [(one[0], one[2]) for one in step(scheduler)] == [(0, 4), (1, 4)]


def test_short_prompts_take_no_more_than_half_from_a_long_one() -> None:
    scheduler = make(num_blocks=64, max_num_batched_tokens=8)
    scheduler.add(sequence(0, list(range(100))))
    for seq_id in range(1, 5):
        scheduler.add(sequence(seq_id, [200 * seq_id, 1]))
    assert [(one[0], one[2]) for one in step(scheduler)] == [(0, 4), (1, 2), (2, 2)]
    assert [(one[0], one[2]) for one in step(scheduler)] == [(0, 4), (1, 1), (2, 1), (3, 2)]
