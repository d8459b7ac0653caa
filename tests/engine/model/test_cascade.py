import itertools
import random

import pytest
import torch

from engine.model.block_tables import BlockTables
from engine.model.cascade import CascadeThresholds, PrefixGroup, group_by_prefix
from engine.model.forward_batch import ForwardBatch
from engine.scheduling.scheduler_output import ScheduledSequence, SchedulerOutput

USUAL = CascadeThresholds(((8, 256),))
SEQ_IDS = itertools.count()


def decode(blocks, block_size, own_tokens=1):
    """A sequence whose next token lies behind so many blocks."""
    start = len(blocks) * block_size + own_tokens - 1
    return ScheduledSequence(next(SEQ_IDS), start, (7,), ((*blocks, 99),), True)


def groups_of(sequences, block_size, thresholds):
    return group_by_prefix(sequences, BlockTables.of(SchedulerOutput(0, tuple(sequences)), block_size), thresholds)


def partitions(rows):
    """All ways to put rows into groups."""
    if not rows:
        yield []
        return
    first, *rest = rows
    for groups in partitions(rest):
        yield [[first], *groups]
        for i, group in enumerate(groups):
            yield [*groups[:i], [first, *group], *groups[i + 1 :]]


def shared_tokens(sequences, rows, block_size, unit):
    """What the rows have in common, by comparing all their blocks."""
    least = min(sequences[row].start for row in rows) // block_size
    count = 0
    while count < least and len({sequences[row].blocks[0][count] for row in rows}) == 1:
        count += 1
    unit = -(-unit // block_size) * block_size
    return count * block_size // unit * unit


def saved(sequences, groups, block_size, unit, least_rows):
    sizes = [(len(rows), shared_tokens(sequences, rows, block_size, unit)) for rows in groups]
    return sum((count - 1) * tokens for count, tokens in sizes if count >= least_rows)


def six_sequences(seed, block_size):
    """A block says what is in it and before it, as in a prefix cache."""
    rng = random.Random(seed)
    for _ in range(6):
        path: tuple[int, ...] = ()
        for _ in range(rng.randrange(8)):
            path = (*path, rng.randrange(2) if rng.random() < 0.3 else 0)
        blocks = [hash(path[: i + 1]) % 10**9 for i in range(len(path))]
        yield decode(blocks, block_size, rng.randrange(1, block_size))


@pytest.mark.parametrize("least_rows", [2, 3])
@pytest.mark.parametrize(("block_size", "unit"), [(2, 4), (4, 4), (4, 6)])
def test_groups_share_what_they_say_and_hardly_any_others_save_more(block_size, unit, least_rows):
    ours = bests = 0
    for seed in range(60):
        sequences = list(six_sequences(seed, block_size))
        found = groups_of(sequences, block_size, CascadeThresholds(((least_rows, unit),)))
        rows = [row for group in found for row in group.rows]
        assert len(rows) == len(set(rows))
        for group in found:
            assert len(group.rows) >= least_rows
            assert 0 < group.num_tokens <= shared_tokens(sequences, group.rows, block_size, unit)
            assert group.num_tokens <= min(sequences[row].start for row in group.rows)
        best = max(saved(sequences, groups, block_size, unit, least_rows) for groups in partitions(list(range(6))))
        save = sum((len(group.rows) - 1) * group.num_tokens for group in found)
        assert 0.75 * best <= save <= best
        ours, bests = ours + save, bests + best
    assert ours > 0.98 * bests


def test_a_few_with_much_in_common_leave_the_others_what_all_share():
    few = [decode(range(100), 16) for _ in range(8)]
    rest = [decode((*range(16), *range(200 + 50 * i, 250 + 50 * i)), 16) for i in range(8)]
    assert groups_of([*rest, *few], 16, USUAL) == [
        PrefixGroup(1536, tuple(range(8, 16))),
        PrefixGroup(256, tuple(range(8))),
    ]
    assert groups_of([*rest, *few[:4]], 16, USUAL) == [PrefixGroup(256, tuple(range(12)))]
    assert groups_of([*rest[:4], *few], 16, USUAL) == [PrefixGroup(1536, tuple(range(4, 12)))]


def test_a_prefix_must_be_long_enough_and_of_enough_rows():
    long, short = range(16), range(15)
    assert groups_of([decode(long, 16) for _ in range(8)], 16, USUAL) == [PrefixGroup(256, tuple(range(8)))]
    assert groups_of([decode(long, 16) for _ in range(7)], 16, USUAL) == []
    assert groups_of([decode(short, 16) for _ in range(8)], 16, USUAL) == []


@pytest.mark.parametrize(
    ("rows", "blocks", "is_grouped"),
    [(2, 64, False), (4, 63, False), (4, 64, True), (15, 32, False), (16, 16, True), (16, 15, False)],
)
def test_few_rows_must_share_more_than_many(rows, blocks, is_grouped):
    thresholds = CascadeThresholds(((4, 1024), (16, 256)))
    found = groups_of([decode(range(blocks), 16) for _ in range(rows)], 16, thresholds)
    assert found == ([PrefixGroup(blocks * 16, tuple(range(rows)))] if is_grouped else [])


def test_where_nothing_ever_won_nothing_is_grouped():
    assert groups_of([decode(range(999), 16) for _ in range(99)], 16, CascadeThresholds(())) == []


def test_rows_are_not_taken_from_a_group_for_one_that_is_not_worth_it():
    """Four that share more are too few for it, and without them the others would be too few as well."""
    thresholds = CascadeThresholds(((4, 4096), (32, 256)))
    few = [decode(range(48), 16) for _ in range(4)]
    rest = [decode((*range(16), *range(100 * i, 100 * i + 32)), 16) for i in range(1, 29)]
    assert groups_of([*few, *rest], 16, thresholds) == [PrefixGroup(256, tuple(range(32)))]
    longer = [decode(range(272), 16) for _ in range(4)]
    assert groups_of([*longer, *rest, decode(range(16), 16)], 16, thresholds) == [PrefixGroup(4352, (0, 1, 2, 3))]


def test_the_block_that_is_written_is_not_shared():
    """As after a fork, before the first token of its own."""
    sequences = [ScheduledSequence(seq_id, 255, (7,), (tuple(range(16)),), True) for seq_id in range(8)]
    assert groups_of(sequences, 16, USUAL) == []


def test_chunks_are_in_no_group():
    sequences = [decode(range(16), 16) for _ in range(9)]
    sequences[3] = ScheduledSequence(sequences[3].seq_id, 256, (7, 8), sequences[3].blocks, True)
    assert groups_of(sequences, 16, USUAL) == [PrefixGroup(256, (0, 1, 2, 4, 5, 6, 7, 8))]


def test_a_very_long_prefix_is_no_deep_recursion():
    sequences = [decode(range(8192), 16) for _ in range(8)]
    assert groups_of(sequences, 16, USUAL) == [PrefixGroup(131_072, tuple(range(8)))]


def test_a_batch_has_the_groups_as_tensors_where_they_are_wanted():
    sequences = [decode(range(20), 16) for _ in range(9)]
    sequences.insert(2, decode(range(100, 120), 16))
    scheduled = SchedulerOutput(0, tuple(sequences))
    device = torch.device("cpu")
    tables = BlockTables.of(scheduled, 16)
    assert ForwardBatch.from_scheduled(scheduled, tables, device).prefixes is None
    prefixes = ForwardBatch.from_scheduled(scheduled, tables, device, groups_of(sequences, 16, USUAL)).prefixes
    assert prefixes.group_starts.tolist() == [0, 9]
    assert prefixes.members.tolist() == [0, 1, *range(3, 10)]
    assert prefixes.shared_lens_S.tolist() == [256, 256, 0, *[256] * 7]
    assert {x.dtype for x in vars(prefixes).values()} == {torch.int32}
