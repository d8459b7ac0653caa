import pytest
import torch

from kernels.paged_attention.reference import paged_attention
from kernels.write_kv.reference import write_kv
from tests.kernels.paged import make

# (keys per sequence, queries per sequence)
BATCHES = {
    "one token": ([1], [1]),
    "around a block": ([15, 16, 17], [1, 1, 1]),
    "decodes": ([5, 40, 1, 33], [1, 1, 1, 1]),
    "a whole prompt": ([37], [37]),
    "a chunk": ([50], [7]),
    "mixed": ([20, 33, 16, 48, 9], [1, 5, 16, 1, 9]),
    "a sequence without queries": ([20, 5, 18], [2, 0, 1]),
}


def error(out, expected):
    assert not out.isnan().any()
    return ((out.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("window", [0, 1, 12, 100])
@pytest.mark.parametrize("batch", BATCHES)
def test_every_row_attends_to_its_own_past(batch, window):
    paged = make(write_kv, *BATCHES[batch])
    assert error(paged.attend(paged_attention, window), paged.expected(window)) < 1e-5


@pytest.mark.parametrize("heads", [(4, 4), (4, 1), (8, 2)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_heads_share_their_group_in_every_dtype(heads, dtype, bound):
    paged = make(write_kv, *BATCHES["mixed"], heads=heads, block_size=8, dtype=dtype)
    assert error(paged.attend(paged_attention), paged.expected()) < bound


def test_padding_rows_come_back_as_zero():
    paged = make(write_kv, *BATCHES["mixed"])
    alone = paged.attend(paged_attention)
    paged.queries = torch.cat((paged.queries, torch.full_like(paged.queries[:3], torch.nan)))
    padded = paged.attend(paged_attention)
    assert torch.equal(padded[:-3], alone)
    assert (padded[-3:] == 0).all()
