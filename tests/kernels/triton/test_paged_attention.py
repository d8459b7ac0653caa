import functools

import pytest
import torch

from kernels.paged_attention.triton import MAX_SPLITS, SPLIT, paged_attention
from kernels.write_kv.reference import write_kv
from tests.kernels import paged as dense
from tests.kernels.paged import RULES, make, make_rules

# (keys per sequence, queries per sequence)
BATCHES = {
    "one token": ([1], [1]),
    "around a block": ([15, 16, 17], [1, 1, 1]),
    "around a split": ([255, 256, 257], [1, 1, 1]),
    "a whole prompt": ([37], [37]),
    "a chunk": ([150], [7]),
    "mixed": ([20, 33, 16, 300, 9], [1, 5, 16, 1, 9]),
    "a sequence without queries": ([20, 5, 18], [2, 0, 1]),
}
BOUNDS = [(torch.float32, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)]


pytestmark = pytest.mark.usefixtures("filled_with_nan")


def error(out, expected):
    assert not out.isnan().any()
    return ((out.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("window", [0, 1, 12, 400, -1, -12, -50])
@pytest.mark.parametrize("batch", BATCHES)
def test_every_row_attends_to_its_own_past(batch, window):
    paged = make(write_kv, *BATCHES[batch], heads=(4, 2))
    assert error(paged.attend(paged_attention, window), paged.expected(window)) < 1e-5


@pytest.mark.parametrize("window", [0, 12, 400])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("batch", BATCHES)
def test_scores_may_have_a_cap_and_company(batch, rule, window):
    paged, rules = make(write_kv, *BATCHES[batch], heads=(4, 2)), make_rules(rule, 4)
    assert error(paged.attend(paged_attention, window, **rules), paged.expected(window, **rules)) < 1e-5


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("block_size", [16, 64])
@pytest.mark.parametrize("rule", ["", RULES[-1]])
@pytest.mark.parametrize("batch", ["around a split", "mixed"])
def test_keys_and_values_may_lie_in_float8_with_scales(batch, rule, block_size, dtype, bound):
    paged = make(
        write_kv,
        *BATCHES[batch],
        heads=(6, 2),
        block_size=block_size,
        dtype=dtype,
        cache_dtype=torch.float8_e4m3fn,
    )
    rules = make_rules(rule, 6)
    for found, expected in zip(paged.attend_and_log(paged_attention, **rules), paged.each_row(**rules), strict=True):
        assert error(found, expected) < bound


def test_one_scale_of_float8_may_be_given_without_the_other():
    paged = make(write_kv, [300, 40], [1, 30], heads=(4, 2), cache_dtype=torch.float8_e4m3fn)
    scale = paged.scales.pop("v_scale_G")
    paged.values = [values / scale[:, None] for values in paged.values]
    assert error(paged.attend(paged_attention), paged.expected()) < 1e-5


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("window", [0, 12])
@pytest.mark.parametrize("rule", ["", RULES[-1]])
@pytest.mark.parametrize("batch", ["one token", "around a split", "mixed"])
def test_logarithms_are_of_the_denominators(batch, rule, window, cut):
    paged, rules = make(write_kv, *BATCHES[batch], heads=(4, 2)), make_rules(rule, 4)
    attend = functools.partial(paged_attention, cut=cut)
    assert error(paged.logarithms(attend, window, **rules), paged.expected_logarithms(window, **rules)) < 1e-5


@pytest.mark.parametrize("counts", [[1, 1], [4, 3]])
def test_scores_far_apart_leave_no_holes(counts):
    """Of products in the hundreds a cap leaves two scores; a sink may be far above or far below all others."""
    paged = make(write_kv, [270, 20], counts, heads=(6, 2))
    paged.queries *= 100
    assert error(paged.attend(paged_attention, soft_cap=2.0), paged.expected(soft_cap=2.0)) < 1e-5
    paged.queries /= 100
    far = torch.tensor([-300.0, 90.0, -torch.inf] * 2)
    out = paged.attend(paged_attention, sinks_H=far)
    assert error(out[:, far < 0], paged.expected()[:, far < 0]) < 1e-5
    assert out[:, far > 0].abs().max() < 1e-20


@pytest.mark.parametrize("rule", ["", RULES[-1]])
@pytest.mark.parametrize("heads", [(2, 2), (9, 3), (8, 2), (8, 1)])
@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
def test_heads_share_their_group_in_every_dtype(heads, dtype, bound, rule):
    paged = make(write_kv, [70, 270, 40], [5, 1, 40], heads=heads, dtype=dtype)
    rules = make_rules(rule, heads[0])
    assert error(paged.attend(paged_attention, **rules), paged.expected(**rules)) < bound


@pytest.mark.parametrize(("dtype", "window"), [(torch.float32, 0), (torch.bfloat16, 50)])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256, 512])
@pytest.mark.parametrize("block_size", [8, 16, 64])
def test_heads_and_blocks_may_have_other_sizes(block_size, head_dim, dtype, window, monkeypatch):
    monkeypatch.setattr(dense, "HEAD_DIM", head_dim)
    paged = make(write_kv, [70, 270, 40], [5, 1, 40], heads=(4, 2), block_size=block_size, dtype=dtype)
    assert error(paged.attend(paged_attention, window), paged.expected(window)) < dict(BOUNDS)[dtype]


@pytest.mark.parametrize("window", [0, 12, 400])
@pytest.mark.parametrize("counts", [[1] * 6, [1, 2, 65, 1, 2, 257]])
def test_sequences_may_end_around_a_block_of_64(counts, window):
    paged = make(write_kv, [63, 64, 65, 255, 256, 257], counts, heads=(4, 2), block_size=64)
    assert error(paged.attend(paged_attention, window), paged.expected(window)) < 1e-5


@pytest.mark.parametrize("counts", [[1, 1], [4, 3]])
def test_sequences_may_share_blocks(counts):
    paged = make(write_kv, [40, 40], counts, heads=(4, 2))
    paged.block_table[1, :2] = paged.block_table[0, :2]
    paged.keys[1][:32], paged.values[1][:32] = paged.keys[0][:32], paged.values[0][:32]
    assert error(paged.attend(paged_attention), paged.expected()) < 1e-5


def test_rows_of_many_splits_have_longer_ones(monkeypatch):
    assert SPLIT * MAX_SPLITS == 16384
    monkeypatch.setattr("kernels.paged_attention.triton.SPLIT", 64)
    monkeypatch.setattr("kernels.paged_attention.triton.MAX_SPLITS", 3)
    paged = make(write_kv, [192, 193, 600, 65], [1, 1, 1, 1], heads=(2, 1))
    assert error(paged.attend(paged_attention), paged.expected()) < 1e-5


@pytest.mark.parametrize("rule", ["", RULES[-1]])
@pytest.mark.parametrize("window", [0, 50, -50])
def test_a_row_does_not_depend_on_its_batch(window, rule):
    lens, counts = [300, 129, 17, 60], [1, 40, 1, 3]
    paged, rules = make(write_kv, lens, counts, heads=(4, 2), dtype=torch.bfloat16), make_rules(rule, 4)
    whole, logarithms = paged.attend_and_log(paged_attention, window, **rules)
    starts, seq_lens, table, queries = paged.query_starts, paged.seq_lens, paged.block_table, paged.queries
    for s, count in enumerate(counts):
        rows = slice(starts[s], starts[s + 1])
        paged.query_starts = torch.tensor([0, count], dtype=torch.int32)
        paged.seq_lens = seq_lens[s, None]
        paged.block_table = table[s, None, : -(-lens[s] // 16)].contiguous()
        paged.queries = queries[rows]
        alone, logs = paged.attend_and_log(paged_attention, window, **rules)
        assert torch.equal(alone, whole[rows]) and torch.equal(logs, logarithms[rows])


@pytest.mark.parametrize("rule", ["", RULES[-1]])
@pytest.mark.parametrize("window", [0, 50, -50])
def test_uncut_rows_are_the_same_in_any_chunk(window, rule):
    """Keys stay where they are: only what a call computes differs."""
    attend, rules = functools.partial(paged_attention, cut=False), make_rules(rule, 4)
    paged = make(write_kv, [140, 9], [140, 9], heads=(4, 1), dtype=torch.bfloat16)
    whole = paged.attend(attend, window, **rules)
    assert error(whole, paged.expected(window, **rules)) < 1e-2
    table, queries = paged.block_table, paged.queries
    for start, stop in ((0, 1), (32, 33), (139, 140), (60, 67), (3, 131)):
        paged.query_starts = torch.tensor([0, stop - start], dtype=torch.int32)
        paged.seq_lens = torch.tensor([stop], dtype=torch.int32)
        paged.block_table = table[:1]
        paged.queries = queries[start:stop]
        assert torch.equal(paged.attend(attend, window, **rules), whole[start:stop]), start
    paged.query_starts = torch.tensor([0, 1, 3, 3], dtype=torch.int32)
    paged.seq_lens = torch.tensor([9, 91, 0], dtype=torch.int32)
    paged.block_table = torch.cat((table.flip(0), torch.full_like(table[:1], -1)))
    paged.queries = torch.cat((queries[148:149], queries[89:91], torch.full_like(queries[:3], torch.nan)))
    mixed = paged.attend(attend, window, **rules)
    assert torch.equal(mixed, torch.cat((whole[148:149], whole[89:91], torch.zeros_like(whole[:3]))))


@pytest.mark.parametrize("batch", ["one token", "around a block", "mixed"])
def test_padding_rows_come_back_as_zero(batch):
    paged = make(write_kv, *BATCHES[batch], heads=(4, 2))
    alone = paged.attend(paged_attention)
    paged.queries = torch.cat((paged.queries, torch.full((3, 4, 64), torch.nan)))
    padded = paged.attend(paged_attention)
    assert torch.equal(padded[:-3], alone)
    assert (padded[-3:] == 0).all()
    assert (paged.logarithms(paged_attention)[-3:] == -torch.inf).all()


def test_padding_sequences_without_queries_are_harmless():
    paged = make(write_kv, [20, 40], [1, 1], heads=(4, 2))
    alone = paged.attend(paged_attention)
    paged.query_starts = torch.tensor([0, 1, 2, 2, 2], dtype=torch.int32)
    paged.seq_lens = torch.tensor([20, 40, 0, 0], dtype=torch.int32)
    paged.block_table = torch.cat((paged.block_table, torch.full_like(paged.block_table, -1)))
    paged.queries = torch.cat((paged.queries, torch.full_like(paged.queries, torch.nan)))
    padded = paged.attend(paged_attention)
    assert torch.equal(padded[:2], alone)
    assert (padded[2:] == 0).all()
