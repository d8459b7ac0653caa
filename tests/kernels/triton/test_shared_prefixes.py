import functools

import pytest
import torch
from torch.nn.functional import pad

from kernels.paged_attention import reference
from kernels.paged_attention.triton import paged_attention
from kernels.write_kv.reference import write_kv
from tests.kernels import paged as dense
from tests.kernels.paged import RULES, make, make_rules
from tests.kernels.triton.test_paged_attention import BOUNDS, error

pytestmark = pytest.mark.usefixtures("filled_with_nan")

# (keys per sequence, queries per sequence, groups: sequences and the keys that they share)
BATCHES = {
    "two rows": ([300, 290], [1, 1], [([1, 0], 256)]),
    "two groups": ([300, 40, 65, 290, 273, 70], [1] * 6, [([0, 3, 4], 272), ([5, 2], 64)]),
    "no group": ([300, 40], [1, 1], []),
    "an empty one": ([80, 40, 70], [1, 1, 1], [([], 16), ([0, 2], 64), ([], 0)]),
    "one key is its own": ([65, 65, 66], [1, 1, 1], [([0, 1, 2], 64)]),
    "beside chunks": ([20, 300, 50, 270, 9], [3, 1, 40, 1, 0], [([1, 3], 256)]),
}


@pytest.mark.parametrize("rule", ["", RULES[-1]])
@pytest.mark.parametrize("batch", BATCHES)
def test_shared_keys_are_read_for_every_row(batch, rule):
    lens, counts, groups = BATCHES[batch]
    paged, rules = make(write_kv, lens, counts, heads=(4, 2)), make_rules(rule, 4)
    prefixes = paged.share(groups)
    found = paged.attend_and_log(paged_attention, prefixes=prefixes, **rules)
    for ours, expected in zip(found, paged.each_row(**rules), strict=True):
        assert error(ours, expected) < 1e-5


def test_a_group_may_be_more_rows_than_a_tile():
    paged = make(write_kv, [35 + i % 3 for i in range(12)], [1] * 12, heads=(16, 1))  # tiles of four queries
    prefixes = paged.share([([11, 0, 3], 16), (list(range(10, 3, -1)), 32)])
    assert error(paged.attend(paged_attention, prefixes=prefixes), paged.expected()) < 1e-5


def test_they_are_read_at_the_first_of_the_group_alone():
    lens, counts, groups = BATCHES["two groups"]
    paged = make(write_kv, lens, counts, heads=(4, 2))
    prefixes = paged.share(groups)
    expected = paged.expected()
    for seqs, num_keys in groups:
        paged.block_table[seqs[1:], : num_keys // 16] = -1000
    assert error(paged.attend(paged_attention, prefixes=prefixes), expected) < 1e-5


@pytest.mark.parametrize("heads", [(2, 2), (9, 3), (8, 1), (64, 1)])
@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
def test_heads_share_their_group_in_every_dtype(heads, dtype, bound):
    paged = make(write_kv, [300, 290, 270], [1, 1, 1], heads=heads, dtype=dtype)
    prefixes = paged.share([([0, 1, 2], 256)])
    assert error(paged.attend(paged_attention, prefixes=prefixes), paged.expected()) < bound


@pytest.mark.parametrize("cache_dtype", [None, torch.float8_e4m3fn])
@pytest.mark.parametrize("head_dim", [64, 80, 128])
@pytest.mark.parametrize("block_size", [8, 64])
def test_heads_and_blocks_may_have_other_sizes(block_size, head_dim, cache_dtype, monkeypatch):
    monkeypatch.setattr(dense, "HEAD_DIM", head_dim)
    paged = make(
        write_kv,
        [200, 193, 100],
        [1, 1, 1],
        heads=(4, 2),
        block_size=block_size,
        dtype=torch.bfloat16,
        cache_dtype=cache_dtype,
    )
    prefixes = paged.share([([0, 1], 192)])
    assert error(paged.attend(paged_attention, prefixes=prefixes), paged.expected()) < 1e-2


def test_long_prefixes_and_long_rests_have_longer_splits(monkeypatch):
    monkeypatch.setattr("kernels.paged_attention.triton.SPLIT", 64)
    monkeypatch.setattr("kernels.paged_attention.triton.MAX_SPLITS", 2)
    paged = make(write_kv, [330, 400, 200, 340, 321], [1] * 5, heads=(2, 1))
    prefixes = paged.share([([0, 3], 304), ([1, 2], 128)])
    assert error(paged.attend(paged_attention, prefixes=prefixes), paged.expected()) < 1e-5


@pytest.mark.parametrize(("window", "cut"), [(100, True), (0, False)])
def test_windows_and_uncut_rows_leave_groups_aside(window, cut):
    lens, counts, groups = BATCHES["beside chunks"]
    paged = make(write_kv, lens, counts, heads=(4, 2))
    prefixes, attend = paged.share(groups), functools.partial(paged_attention, cut=cut)
    call = functools.partial(paged.attend, attend, window)
    assert torch.equal(call(prefixes=prefixes), call())


def test_rows_and_sequences_of_padding_change_nothing():
    lens, counts, groups = BATCHES["two groups"]
    paged = make(write_kv, lens, counts, heads=(4, 2))
    prefixes = paged.share(groups)
    alone = paged.attend(paged_attention, prefixes=prefixes)
    paged.query_starts = pad(paged.query_starts, (0, 2), value=6)
    paged.seq_lens = pad(paged.seq_lens, (0, 2))
    paged.block_table = pad(paged.block_table, (0, 0, 0, 2), value=-1)
    paged.queries = torch.cat((paged.queries, torch.full_like(paged.queries[:2], torch.nan)))
    prefixes = type(prefixes)(
        pad(prefixes.group_starts, (0, 3), value=5),
        pad(prefixes.members, (0, 3)),
        pad(prefixes.shared_lens_S, (0, 2)),
    )
    padded = paged.attend(paged_attention, prefixes=prefixes)
    assert torch.equal(padded, torch.cat((alone, torch.zeros_like(alone[:2]))))


def test_the_reference_reads_each_sequence_for_itself():
    lens, counts, groups = BATCHES["two groups"]
    paged = make(write_kv, lens, counts, heads=(4, 2))
    prefixes = paged.share(groups)
    assert error(paged.attend(reference.paged_attention, prefixes=prefixes), paged.expected()) < 1e-5
