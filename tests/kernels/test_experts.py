import pytest
import torch

from kernels.experts.reference import Expert, Experts, route
from kernels.kernel_set import load_kernels

CPU = torch.device("cpu")


def make(num_experts, model_dim, ffn_dim, dtype=torch.float32, seed=0, biased=False):
    rng = torch.Generator().manual_seed(seed)

    def random(*shape):
        return (torch.randn(shape, generator=rng) * shape[-1] ** -0.5).to(dtype)

    return [
        Expert(
            random(2 * ffn_dim, model_dim),
            random(model_dim, ffn_dim),
            random(2 * ffn_dim) if biased else None,
            random(model_dim) if biased else None,
        )
        for _ in range(num_experts)
    ]


def each_row(matrices, x, ids, weights):
    """The slow and plain way, in float64."""
    rows = []
    for row, experts, shares in zip(x.double(), ids.tolist(), weights.double(), strict=True):
        total = torch.zeros_like(row)
        for expert, share in zip(experts, shares, strict=True):
            one = matrices[expert]
            biases = [0 if bias is None else bias.double() for bias in one[2:]]
            gate, up = (one.gate_up.double() @ row + biases[0]).chunk(2)
            total += share * (one.down.double() @ (gate / (1 + (-gate).exp()) * up) + biases[1])
        rows.append(total)
    return torch.stack(rows)


def error(out, expected):
    assert not out.isnan().any()
    return ((out.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("renormalise", [True, False])
def test_the_best_experts_come_first_and_of_equal_ones_the_first(renormalise):
    logits = torch.tensor([[0.0, 2.0, 1.0, 2.0], [3.0, -1.0, 0.5, 0.0]])
    ids, weights = route(logits, 2, renormalise)
    assert ids.tolist() == [[1, 3], [0, 2]]
    shares = logits.softmax(-1).gather(1, ids)
    assert torch.allclose(weights, shares / shares.sum(-1, keepdim=True) if renormalise else shares)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("biased", [True, False])
def test_a_row_is_the_weighted_sum_of_its_experts(biased, dtype, bound):
    matrices = make(5, 24, 20, dtype, biased=biased)
    x = torch.randn(7, 24).to(dtype)
    ids, weights = route(torch.randn(7, 5), 3, True)
    out = Experts(matrices)(x, ids, weights)
    assert out.dtype == dtype
    assert error(out, each_row(matrices, x, ids, weights)) < bound


def test_experts_that_nobody_takes_change_nothing():
    matrices = make(4, 16, 16)
    matrices[2] = Expert(*(torch.full_like(matrix, torch.nan) for matrix in matrices[2][:2]))
    ids, weights = torch.tensor([[0, 3], [3, 1]]), torch.rand(2, 2)
    x = torch.randn(2, 16)
    assert error(Experts(matrices)(x, ids, weights), each_row(matrices, x, ids, weights)) < 1e-6


def test_a_row_has_the_same_bits_in_any_batch():
    kernels = load_kernels(CPU, torch.bfloat16)
    if not kernels.deterministic:
        pytest.skip("without a C compiler this is not promised")
    experts = kernels.experts(make(6, 48, 32, torch.bfloat16))
    x = torch.randn(40, 48).bfloat16()
    ids, weights = kernels.route(torch.randn(40, 6), 3, False)
    whole = experts(x, ids, weights)
    for rows in (slice(0, 1), slice(3, 5), slice(7, 40)):
        assert torch.equal(experts(x[rows], ids[rows], weights[rows]), whole[rows])


def test_an_id_that_no_expert_has_adds_nothing():
    matrices = make(3, 16, 20)
    x = torch.randn(2, 16)
    ids, weights = torch.tensor([[0, 3], [4, 3]]), torch.tensor([[0.6, 0.4], [0.5, 0.5]])
    out = Experts(matrices)(x, ids, weights)
    assert error(out[:1], each_row(matrices, x[:1], ids[:1, :1], weights[:1, :1])) < 1e-6
    assert not out[1].any()
