"""Cache groups in the scheduler: blocks in use are those that the specs say, for any windows, budgets and prompts."""

from hypothesis import given
from hypothesis import strategies as st

from configs.schema import SchedulerConfig
from engine.cache.cache_layout import CacheGroup, longest_sequence
from engine.cache.prefix_cache import hash_blocks
from engine.scheduling.block_allocator import BlockAllocator
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput
from engine.scheduling.sequence import FREED, Sequence
from tests.engine.scheduling.sequences import KEY, ROOT, sequence

GROUPS = st.one_of(
    st.just(CacheGroup()),
    st.builds(CacheGroup, window=st.integers(1, 30)),
    st.builds(CacheGroup, chunk=st.integers(1, 30)),
)


def make(groups: list[CacheGroup], block_size: int, num_blocks: int, sharing: bool = True, **config: int) -> Scheduler:
    blocks = BlockAllocator(num_blocks, block_size, KEY if sharing else None, groups=tuple(groups))
    return Scheduler(SchedulerConfig(**config), blocks, max_model_len=1000)


def step(scheduler: Scheduler) -> SchedulerOutput:
    scheduled = scheduler.schedule()
    scheduler.update_after_schedule(scheduled)
    num_samples = sum(one.samples for one in scheduled.sequences)
    scheduler.update_from_output(scheduled, ModelOutput((77,) * num_samples))
    scheduler.check()
    return scheduled


def seq_of(seq_id: int, tokens: list[int], block_size: int) -> Sequence:
    seq = sequence(seq_id, tokens, max_tokens=1000)
    seq.block_hashes = hash_blocks(KEY, ROOT, tokens, block_size)
    return seq


@given(
    groups=st.lists(GROUPS, min_size=1, max_size=4),
    block_size=st.sampled_from([1, 2, 4, 16]),
    budget=st.integers(1, 70),
    lens=st.lists(st.integers(1, 80), min_size=1, max_size=4),
    num_steps=st.integers(1, 40),
    sharing=st.booleans(),
)
def test_blocks_in_use_are_those_that_the_next_token_sees(
    groups: list[CacheGroup], block_size: int, budget: int, lens: list[int], num_steps: int, sharing: bool
) -> None:
    scheduler = make(groups, block_size, 2000, sharing, max_num_batched_tokens=budget)
    for seq_id, length in enumerate(lens):
        scheduler.add(seq_of(seq_id, [seq_id + 1] * length, block_size))
    for _ in range(num_steps):
        step(scheduler)
        for seq in scheduler.running:
            for group, blocks in zip(groups, seq.blocks, strict=True):
                kept = {at for at, block in enumerate(blocks) if block != FREED}
                seen = {at // block_size for at in range(group.first_seen(seq.num_computed), seq.num_computed)}
                assert seen <= kept
                assert kept <= {
                    at // block_size for at in range(group.first_seen(seq.num_computed), seq.num_computed + 1)
                }
    in_use = scheduler.blocks.pool.num_blocks - scheduler.blocks.pool.num_free
    ends = [(seq.num_computed, -(-seq.num_computed // block_size)) for seq in scheduler.running]
    assert in_use == sum(max(0, end - group.first_seen(at) // block_size) for at, end in ends for group in groups)


@given(
    groups=st.lists(GROUPS, min_size=1, max_size=3),
    block_size=st.sampled_from([1, 4]),
    budget=st.integers(1, 70),
    length=st.integers(1, 60),
    spare=st.integers(0, 5),
)
def test_the_longest_sequence_that_fits_is_computed_alone(
    groups: list[CacheGroup], block_size: int, budget: int, length: int, spare: int
) -> None:
    """In a pool that just holds it, whatever the budget is."""
    num_blocks = sum(group.num_blocks(length, block_size, block_size) for group in groups) + spare
    assert longest_sequence(groups, num_blocks, block_size, 1000) >= length
    scheduler = make(groups, block_size, num_blocks, max_num_batched_tokens=budget)
    seq = seq_of(0, list(range(length)), block_size)
    scheduler.add(seq)
    for _ in range(length):
        if seq.num_computed == length:
            break
        assert step(scheduler).sequences
    assert seq.num_computed == length and len(seq.tokens) == length + 1


def test_a_long_prompt_keeps_a_window_and_a_later_one_shares_what_is_cached_of_it() -> None:
    groups = [CacheGroup(), CacheGroup(window=6)]
    scheduler = make(groups, 4, 64, max_num_batched_tokens=100)
    scheduler.add(seq_of(0, list(range(18)), 4))
    step(scheduler)  # 18 computed: 18 sees from 13 on, in block 3
    (first,) = scheduler.running
    assert [len([b for b in blocks if b != FREED]) for blocks in first.blocks] == [5, 2]
    scheduler.add(seq_of(1, [*range(18), 99], 4))
    scheduled = step(scheduler)
    assert scheduled.sequences[1].start == 16
    assert scheduled.sequences[1].blocks[1][:2] == (FREED, FREED), "16 sees from 11 on, in block 2"
    assert scheduled.sequences[1].blocks[1][3] == first.blocks[1][3]


def test_a_prefix_whose_window_was_evicted_is_shared_as_far_as_there_is_one() -> None:
    groups = [CacheGroup(), CacheGroup(window=4)]
    scheduler = make(groups, 4, 15, max_num_batched_tokens=100)
    scheduler.add(seq_of(0, list(range(20)), 4))
    step(scheduler)  # five blocks of each; the window's first four are free again, and cached
    longer, shorter = seq_of(1, list(range(20)), 4), seq_of(2, list(range(9)), 4)
    assert [scheduler.blocks.match_prefix(seq).num_blocks for seq in (longer, shorter)] == [4, 2]
    scheduler.add(seq_of(3, [50] * 9, 4))
    step(scheduler)  # takes the three that were never used, and evicts the window's first three
    assert [scheduler.blocks.match_prefix(seq).num_blocks for seq in (longer, shorter)] == [4, 0]


def test_a_step_says_new_blocks_alone() -> None:
    scheduler = make([CacheGroup(), CacheGroup(window=6)], 4, 64, max_num_batched_tokens=100)
    scheduler.add(seq_of(0, list(range(7)), 4))
    steps = [step(scheduler).sequences[0] for _ in range(4)]
    assert [(one.first_block, [len(blocks) for blocks in one.blocks]) for one in steps] == [
        (0, [2, 2]),
        (2, []),
        (2, [1, 1]),
        (3, []),
    ]
