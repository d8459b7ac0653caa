import pytest
import torch

from kernels.sampling import reference
from kernels.sampling.filters_triton import keep_min_p, keep_top_k, keep_top_p

INF = torch.inf


@pytest.fixture(params=[1, 31, 101, 9000])
def logits(request):
    """Rows: normal, many equals, half of them masked before, nothing, zeros of both signs, tiny."""
    vocab_size = request.param
    rows = torch.randn(6, vocab_size, generator=torch.Generator().manual_seed(3)) * 3
    rows[1] = rows[1].round()
    rows[2, vocab_size // 2 :] = -INF
    rows[3] = -INF
    rows[4], rows[4, ::2] = 0.0, -0.0
    rows[5] *= 1e-39
    return rows


def assert_top_p(out, logits, top_ps):
    """Tokens stay in their order, up to one before which the sum is that near to top_p."""
    for row, before, p in zip(out, logits, top_ps.double(), strict=True):
        order = before.sort(stable=True, descending=True).indices
        kept = int(row.isfinite().sum())
        assert torch.equal(row[order[:kept]], before[order[:kept]])
        assert (row[order[kept:]] == -INF).all()
        there = int(before.isfinite().sum())
        sums = before[order].double().softmax(-1).cumsum(-1)
        if p < 1 and there:
            assert kept >= 1 and (kept == 1 or sums[kept - 2] < p + 4e-6)
            assert sums[kept - 1] >= p - 4e-6
        else:
            assert kept == there


@pytest.mark.parametrize("ks", [[1, 7, 40, 0, 101, 500], [3, 4, 5, 6, 4500, 2**40], [0] * 6])
def test_top_k_is_the_references(logits, ks):
    assert torch.equal(keep_top_k(logits, torch.tensor(ks)), reference.keep_top_k(logits, torch.tensor(ks)))


@pytest.mark.parametrize("ps", [[0.1, 0.5, 0.9, 1.0, 0.999, 1e-9], [0.7] * 6, [1 - 2**-24, 0, 1, 0.3, 1, 1]])
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits, ps):
    assert_top_p(keep_top_p(logits, torch.tensor(ps)), logits, torch.tensor(ps))


@pytest.mark.parametrize("ps", [[0.05, 0.5, 0.01, 0.0, 1.0, 0.3], [0.0] * 6])
def test_min_p_is_the_references(logits, ps):
    assert torch.equal(keep_min_p(logits, torch.tensor(ps)), reference.keep_min_p(logits, torch.tensor(ps)))


@pytest.mark.parametrize("spread", [0.0, 1e-6, 0.1, 30.0])
def test_every_border_of_a_row_can_be_asked_for(spread):
    row = torch.randn(300, generator=torch.Generator().manual_seed(1)) * spread + 10
    rows = row.round(decimals=6).expand(12, -1)
    ks = torch.tensor([1, 2, 3, 50, 149, 150, 151, 200, 297, 298, 299, 300])
    assert torch.equal(keep_top_k(rows, ks), reference.keep_top_k(rows, ks))
    ps = torch.tensor([1e-6, 0.01, 0.1, 0.3, 0.5, 0.6, 0.8, 0.95, 0.99, 0.999, 0.9999, 0.999999])
    assert_top_p(keep_top_p(rows, ps), rows, ps)


def test_equals_in_several_chunks_stay_by_their_ids():
    logits = torch.full((2, 20_000), -1.0)
    logits[0, 7000:] = 2.0
    logits[1] = 0.0
    kept = keep_top_k(logits, torch.tensor([12_500, 8193])).isfinite()
    assert kept[0, 7000:19_500].all() and kept[0].sum() == 12_500
    assert kept[1, :8193].all() and kept[1].sum() == 8193
    kept = keep_top_p(logits[1:], torch.tensor([0.75])).isfinite()
    assert kept[0, :15_000].all() and kept.sum() == 15_000


def test_a_row_keeps_the_same_alone_and_among_others():
    logits = torch.randn(4, 9000, generator=torch.Generator().manual_seed(2))
    ps, ks = torch.tensor([0.9, 0.3, 1.0, 0.99]), torch.tensor([0, 50, 9, 4000])
    for function, bounds in ((keep_top_p, ps), (keep_min_p, 1 - ps), (keep_top_k, ks)):
        together = function(logits, bounds)
        alone = [function(logits[r : r + 1], bounds[r : r + 1]) for r in range(4)]
        assert torch.equal(together, torch.cat(alone))


def test_no_rows_are_no_rows():
    assert keep_top_k(torch.empty(0, 5), torch.empty(0, dtype=torch.int64)).shape == (0, 5)
    assert keep_min_p(torch.empty(0, 5), torch.empty(0)).shape == (0, 5)
