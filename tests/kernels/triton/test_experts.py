import pytest
import torch

from kernels.experts import reference
from kernels.experts.triton import Experts, route
from tests.kernels.test_experts import each_row, error, make

BOUNDS = [(torch.float32, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)]


@pytest.fixture(autouse=True)
def filled_with_nan(monkeypatch):
    """What nobody writes is not a number."""

    def empty(*args, dtype, **options):
        return torch.full(*args, torch.nan if dtype.is_floating_point else -1, dtype=dtype, **options)

    monkeypatch.setattr("kernels.experts.triton.torch.empty", empty)


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize(("num_experts", "top_k"), [(4, 2), (6, 6), (60, 4), (128, 8)])
def test_rows_take_the_experts_that_the_reference_takes(num_experts, top_k, renormalise):
    logits = torch.randn(5, num_experts) * 3
    logits[1] = logits[1].round()  # many equal ones
    ids, weights = route(logits, top_k, renormalise)
    expected_ids, expected = reference.route(logits, top_k, renormalise)
    assert torch.equal(ids, expected_ids)
    assert error(weights, expected) < 1e-6


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize(
    ("num_rows", "sizes", "top_k"), [(1, (4, 32, 48), 2), (70, (3, 80, 32), 2), (9, (8, 16, 24), 3)]
)
def test_experts_agree_with_float64(num_rows, sizes, top_k, dtype, bound):
    matrices = make(*sizes, dtype, biased=top_k == 3)
    x = torch.randn(num_rows, sizes[1]).to(dtype)
    ids, weights = reference.route(torch.randn(num_rows, sizes[0]), top_k, True)
    out = Experts(matrices)(x, ids, weights)
    assert out.dtype == dtype
    assert error(out, each_row(matrices, x, ids, weights)) < bound


def test_the_gate_can_be_gelu():
    matrices = make(3, 16, 16)
    x = torch.randn(4, 16)
    routed = reference.route(torch.randn(4, 3), 2, True)
    expected = reference.Experts(matrices, "gelu_tanh")(x, *routed)
    assert error(Experts(matrices, "gelu_tanh")(x, *routed), expected.double()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_the_same_in_any_batch_and_at_any_place(dtype):
    experts = Experts(make(5, 48, 32, dtype))
    x = torch.randn(90, 48).to(dtype)
    ids, weights = reference.route(torch.randn(90, 5), 2, False)
    whole = experts(x, ids, weights)
    for num_rows in (1, 2, 65):
        order = torch.randperm(90)[:num_rows]
        assert torch.equal(experts(x[order], ids[order], weights[order]), whole[order]), num_rows


def test_all_rows_may_take_the_same_experts():
    matrices = make(4, 32, 16)
    matrices[0] = matrices[3] = reference.Expert(*(torch.full_like(matrix, torch.nan) for matrix in matrices[0][:2]))
    x, ids, weights = torch.randn(66, 32), torch.tensor([[2, 1]]).expand(66, 2), torch.rand(66, 2)
    assert error(Experts(matrices)(x, ids, weights), each_row(matrices, x, ids, weights)) < 1e-5


def test_an_id_that_no_expert_has_adds_nothing():
    matrices = make(3, 16, 32)
    x = torch.randn(3, 16)
    ids, weights = torch.tensor([[0, 3], [4, 3], [2, 1]]), torch.tensor([[0.6, 0.4], [0.5, 0.5], [0.7, 0.3]])
    out = Experts(matrices)(x, ids, weights)
    assert error(out[[0, 2]], reference.Experts(matrices)(x, ids, weights)[[0, 2]].double()) < 1e-5
    assert not out[1].any()
