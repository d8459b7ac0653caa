import pytest
import torch

from kernels.gated_activation import reference as gate_reference
from kernels.gated_activation.triton import gated_activation
from kernels.qkv_rotary import reference as qkv_reference
from kernels.qkv_rotary.spec import QkvSpec
from kernels.qkv_rotary.triton import qkv_rotary
from kernels.rms_norm import reference as norm_reference
from kernels.rms_norm.triton import add_rms_norm
from kernels.soft_cap import reference as cap_reference
from kernels.soft_cap.triton import soft_cap
from kernels.square_sums import reference as squares_reference
from kernels.square_sums.triton import square_sums

BOUNDS = [(torch.float32, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)]


def error(out, expected):
    assert not out.isnan().any()
    return ((out.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("shape", [(1, 16), (5, 33), (2, 3, 576)])
def test_the_norm_of_the_sum(shape, dtype, bound):
    x, residual, weight = torch.randn(shape).to(dtype), torch.randn(shape), torch.rand(shape[-1])
    ours, theirs = residual.clone(), residual.clone()
    out = add_rms_norm(x, ours, weight, 1e-5)
    assert out.shape == x.shape and out.dtype == dtype
    assert error(out, norm_reference.add_rms_norm(x, theirs, weight, 1e-5)) < bound
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("normed", ["x", "sum", "both", ""])
def test_what_is_added_can_be_normed_and_scaled(normed, dtype, bound):
    shape = (5, 33)
    x, residual, weight = torch.randn(shape).to(dtype), torch.randn(shape), torch.rand(shape[-1])
    ours, theirs = residual.clone(), residual.clone()
    options = (weight if normed in ("sum", "both") else None, 1e-5, weight.flip(0) if normed in ("x", "both") else None)
    out = add_rms_norm(x, ours, *options, 0.22)
    assert error(out, norm_reference.add_rms_norm(x, theirs, *options, 0.22)) < bound
    assert error(ours, theirs) < 1e-6


def test_a_norm_does_not_depend_on_the_other_rows():
    x, residual, weight = torch.randn(4, 100).bfloat16(), torch.randn(4, 100), torch.rand(100)
    alone = [add_rms_norm(x[r, None], residual[r, None].clone(), weight, 1e-5) for r in range(4)]
    assert torch.equal(add_rms_norm(x, residual, weight, 1e-5), torch.cat(alone))


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("ffn_dim", [17, 1536])
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "clamped"])
def test_the_activated_gate_times_up(activation, ffn_dim, dtype, bound):
    gate_up = torch.randn(3, 2 * ffn_dim).to(dtype) * 4
    gate_up[0, :2] = torch.tensor([-200.0, 200.0])
    out = gated_activation(gate_up, activation)
    assert error(out, gate_reference.gated_activation(gate_up, activation)) < bound


@pytest.mark.parametrize("vocab_size", [17, 5000])
def test_a_soft_cap(vocab_size):
    x = torch.randn(3, vocab_size) * 40
    x[0, :3] = torch.tensor([-1e9, 1e9, 0.0])
    assert error(soft_cap(x.clone(), 30.0), cap_reference.soft_cap(x.clone(), 30.0)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("widths", [(16, 8), (37, 3), (9000, 192)])
def test_square_sums(widths, dtype):
    x = torch.randn(3, sum(widths) + 20).to(dtype)
    out = square_sums(x, *widths)
    assert error(out, squares_reference.square_sums(x, *widths)) < 1e-6
    assert torch.equal(square_sums(x[1:2], *widths), out[1:2])


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("norms", ["qk", "q", "k", "", "qk of all heads"])
@pytest.mark.parametrize(("heads", "dim", "num_rotated"), [((9, 3), 64, 64), ((6, 2), 80, 32), ((40, 8), 128, 128)])
def test_queries_keys_and_values_find_their_places(heads, dim, num_rotated, norms, dtype, bound):
    num_heads, num_kv_heads = heads
    qkv = torch.randn(4, (num_heads + 2 * num_kv_heads) * dim).to(dtype)
    angle = torch.rand(20, num_rotated // 2) * 6
    cos_sin = torch.cat((angle.cos(), angle.sin()), -1)
    counts = heads if "all" in norms else (1, 1)
    weights = [torch.rand(count * dim) if which in norms else None for which, count in zip("qk", counts, strict=True)]
    squares = {"squares_T2": torch.rand(4, 2)} if "all" in norms else {}
    positions, slots = torch.tensor([3, 4, 19, 0]), torch.tensor([1, 5, -1, 7])
    caches = [torch.full((2, num_kv_heads, 4, dim), torch.nan, dtype=dtype) for _ in range(4)]
    places, spec = (positions, slots), QkvSpec(cos_sin, *weights, 1e-6)
    out = qkv_rotary(qkv.clone(), tuple(caches[:2]), *places, spec, **squares)
    expected = qkv_reference.qkv_rotary(qkv.clone(), tuple(caches[2:]), *places, spec, **squares)
    assert error(out, expected) < bound
    for ours, theirs in zip(caches[:2], caches[2:], strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan())
        assert error(ours.nan_to_num(), theirs.nan_to_num()) < bound
    assert torch.equal(caches[1].nan_to_num(), caches[3].nan_to_num())


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_and_values_are_rounded_to_float8(dtype, scaled):
    """As the conftest lets the interpreter round, which is torch's way: a GPU's own is checked on one."""
    heads, kv_heads, dim = 3, 2, 64
    qkv = torch.randn(4, (heads + 2 * kv_heads) * dim).to(dtype) * 4
    qkv[1] *= 200  # more than there is
    unturned = torch.cat((torch.ones(20, dim // 2), torch.zeros(20, dim // 2)), -1)
    positions, slots = torch.tensor([3, 4, 19, 0]), torch.tensor([1, 5, -1, 7])
    caches = [torch.full((2, kv_heads, 4, dim), torch.nan, dtype=torch.float8_e4m3fn) for _ in range(4)]
    scales = [torch.tensor([0.25, 3.0]), torch.tensor([0.7, 1.0])] if scaled else [None, None]
    calls = ((qkv_rotary, caches[:2]), (qkv_reference.qkv_rotary, caches[2:]))
    spec = QkvSpec(unturned, k_scale_G=scales[0], v_scale_G=scales[1])
    queries = [call(qkv.clone(), tuple(pair), positions, slots, spec) for call, pair in calls]
    assert torch.equal(*queries)
    assert caches[0].float().nan_to_num().abs().max() == 448
    for ours, theirs in zip(caches[:2], caches[2:], strict=True):
        assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))
