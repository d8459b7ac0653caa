import pytest
import torch

from kernels.activation.reference import activation
from kernels.gated_activation import cpu as gated_activation_cpu
from kernels.gated_activation.reference import gated_activation
from kernels.layer_norm.reference import add_layer_norm
from kernels.qkv_rotary import cpu as qkv_rotary_cpu
from kernels.qkv_rotary.reference import qkv_rotary
from kernels.qkv_rotary.spec import QkvSpec
from kernels.rms_norm import cpu as rms_norm_cpu
from kernels.rms_norm.reference import add_rms_norm, rms_norm
from kernels.rotary.reference import rotary
from kernels.soft_cap import cpu as soft_cap_cpu
from kernels.soft_cap.reference import soft_cap
from kernels.square_sums import cpu as square_sums_cpu
from kernels.square_sums.reference import square_sums
from kernels.write_kv.reference import write_kv
from tests.kernels.cpus import COMPILERS

DTYPES = [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)]


def close(out, expected, bound):
    return ((out.double() - expected.double()).norm() / expected.double().norm()).item() < bound


def table(num_positions, num_rotated):
    angles = torch.arange(num_positions)[:, None] * 100.0 ** -(torch.arange(num_rotated // 2) / (num_rotated // 2))
    return torch.cat((angles.cos(), angles.sin()), -1)


@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
@pytest.mark.parametrize("shape", [(1, 8), (5, 33), (2, 3, 64)])
def test_rms_norm_scales_to_unit_mean_square(shape, dtype, bound):
    x, weight = torch.randn(shape).to(dtype), torch.randn(shape[-1])
    expected = x.double() / (x.double() ** 2).mean(-1, keepdim=True).add(1e-5).sqrt() * weight
    assert close(rms_norm(x, weight, 1e-5), expected, bound)


@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
def test_add_rms_norm_updates_the_residual(dtype, bound):
    x, residual, weight = torch.randn(3, 32).to(dtype), torch.randn(3, 32), torch.randn(32)
    total = x.float() + residual
    out = add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(residual, total)
    assert close(out, rms_norm(total, weight, 1e-5), bound)


@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
def test_what_is_added_can_be_normed_and_scaled_and_the_sum_be_left_alone(dtype, bound):
    x, residual, weight = torch.randn(3, 32).to(dtype), torch.randn(3, 32), torch.randn(32)
    total = residual + rms_norm(x.float(), weight, 1e-5) * 0.3
    out = add_rms_norm(x, residual, None, 1e-5, weight, 0.3)
    assert torch.equal(residual, total)
    assert torch.equal(out, total.to(dtype))


@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
@pytest.mark.parametrize("shape", [(0, 8), (1, 8), (5, 33), (2, 3, 64)])
def test_add_layer_norm_gives_a_row_the_mean_of_its_bias_and_unit_variance(shape, dtype, bound):
    x, residual, weight, bias = torch.randn(shape).to(dtype), torch.randn(shape), *torch.randn(2, shape[-1])
    total = residual + x.float() * 0.3
    out = add_layer_norm(x, residual, weight, bias, 1e-5, 0.3)
    assert torch.equal(residual, total)
    centered = total.double() - total.double().mean(-1, keepdim=True)
    expected = centered / (centered**2).mean(-1, keepdim=True).add(1e-5).sqrt() * weight + bias
    assert out.dtype == dtype
    assert len(x) == 0 or close(out, expected, bound)


@pytest.mark.parametrize("dim", [33, 64, 2560])
def test_a_row_has_the_same_layer_norm_alone_and_in_a_batch(dim):
    x, residual, weight, bias = torch.randn(37, dim).bfloat16(), torch.randn(37, dim), *torch.randn(2, dim)
    alone = [add_layer_norm(x[i : i + 1], residual[i : i + 1].clone(), weight, bias, 1e-5) for i in range(37)]
    assert torch.equal(add_layer_norm(x, residual, weight, bias, 1e-5), torch.cat(alone))


@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "relu2"])
def test_an_activation_without_gate_rounds_a_number_the_same_wherever_it_stands(kind):
    x = torch.linspace(-6, 4, 7 * 33).view(7, 33)
    alone = torch.stack([torch.cat([activation(one.view(1, 1), kind)[0] for one in row]) for row in x])
    assert torch.equal(activation(x, kind), alone)


def test_gelu_is_the_share_of_a_normal_distribution_below_times_the_number():
    x = torch.randn(3, 5)
    expected = x * torch.distributions.Normal(0.0, 1.0).cdf(x)
    assert close(activation(x, "gelu"), expected, 1e-6)
    assert 1e-6 < (activation(x, "gelu_tanh") - expected).abs().max() < 1e-2


@pytest.mark.parametrize("num_rotated", [8, 16])
def test_rotary_is_a_complex_rotation_of_pairs(num_rotated):
    x, positions = torch.randn(5, 3, 16), torch.tensor([0, 7, 2, 30, 7])
    cos_sin = table(31, num_rotated)
    half = num_rotated // 2
    angle = torch.complex(cos_sin[positions, :half], cos_sin[positions, half:])[:, None]
    turned = torch.complex(x[..., :half], x[..., half:num_rotated]) * angle
    expected = torch.cat((turned.real, turned.imag, x[..., num_rotated:]), -1)
    assert close(rotary(x, cos_sin, positions), expected, 1e-6)


def test_write_kv_writes_its_slots_and_no_other():
    k, v = torch.randn(4, 2, 8), torch.randn(4, 2, 8)
    k_cache = torch.full((3, 2, 4, 8), torch.nan)
    v_cache = k_cache.clone()
    write_kv(k, v, (k_cache, v_cache), torch.tensor([9, -1, 0, 3]))
    for row, (block, offset) in {0: (2, 1), 2: (0, 0), 3: (0, 3)}.items():
        assert torch.equal(k_cache[block, :, offset], k[row])
        assert torch.equal(v_cache[block, :, offset], v[row])
    assert k_cache.isnan().sum() == (12 - 3) * 16


def test_write_kv_rounds_to_the_nearest_float8_and_stops_at_its_largest():
    k, v = torch.tensor([3.2, 5000.0, -0.02, -700.0]).view(1, 2, 2), torch.tensor([0.5, 2.0, 3.0, -4.0]).view(1, 2, 2)
    k_cache, v_cache = (torch.zeros((1, 2, 1, 2), dtype=torch.float8_e4m3fn) for _ in range(2))
    write_kv(k, v, (k_cache, v_cache), torch.tensor([0]), v_scale_G=torch.tensor([0.25, 2.0]))
    assert k_cache.float().flatten().tolist() == [3.25, 448.0, -0.01953125, -448.0]
    assert v_cache.float().flatten().tolist() == [2.0, 8.0, 1.5, -2.0]


@pytest.mark.parametrize("normed", [True, False])
def test_qkv_rotary_is_norm_rotary_and_write(normed):
    heads, kv_heads, dim = 6, 2, 16
    qkv, cos_sin = torch.randn(4, (heads + 2 * kv_heads) * dim), table(20, dim)
    norms = (torch.rand(dim), torch.rand(dim)) if normed else (None, None)
    positions, slots = torch.tensor([3, 4, 19, 0]), torch.tensor([1, 5, -1, 7])
    k_cache, v_cache = torch.zeros(2, kv_heads, 4, dim), torch.zeros(2, kv_heads, 4, dim)
    q, k, v = qkv.clone().view(4, -1, dim).split((heads, kv_heads, kv_heads), 1)
    out = qkv_rotary(qkv, (k_cache, v_cache), positions, slots, QkvSpec(cos_sin, *norms, 1e-6))
    if normed:
        q, k = rms_norm(q, norms[0], 1e-6), rms_norm(k, norms[1], 1e-6)
    assert close(out, rotary(q, cos_sin, positions), 1e-6)
    assert close(k_cache[1, :, 3], rotary(k, cos_sin, positions)[3], 1e-6)
    assert torch.equal(v_cache[1, :, 1], v[1])
    assert (k_cache[0, :, 0] == 0).all()


def test_norms_of_queries_and_keys_can_be_over_all_heads():
    heads, kv_heads, dim = 6, 2, 16
    qkv, unturned = torch.randn(4, (heads + 2 * kv_heads) * dim), torch.tensor([[1.0, 0.0]])
    norms = torch.rand(heads * dim), torch.rand(kv_heads * dim)
    where = torch.zeros(4, dtype=torch.int64), torch.tensor([1, 5, -1, 7])
    k_cache, v_cache = torch.zeros(2, kv_heads, 4, dim), torch.zeros(2, kv_heads, 4, dim)
    sums = square_sums(qkv, heads * dim, kv_heads * dim)
    squares = sums / torch.tensor([heads * dim, kv_heads * dim])
    out = qkv_rotary(qkv.clone(), (k_cache, v_cache), *where, QkvSpec(unturned, *norms, 1e-6), squares)
    q, k, _ = qkv.split((heads * dim, kv_heads * dim, kv_heads * dim), 1)
    assert close(out.flatten(1), rms_norm(q, norms[0], 1e-6), 1e-6)
    assert close(k_cache[1, :, 3].flatten(), rms_norm(k, norms[1], 1e-6)[3], 1e-6)


@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
def test_gated_activation_is_silu_times_up(dtype, bound):
    x = torch.randn(3, 34).to(dtype)
    gate, up = x.double().chunk(2, -1)
    assert close(gated_activation(x), gate / (1 + (-gate).exp()) * up, bound)


@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
def test_gated_activation_can_be_gelu(dtype, bound):
    x = torch.randn(3, 34).to(dtype) * 3
    gate, up = x.double().chunk(2, -1)
    expected = gate / 2 * (1 + ((2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)).tanh()) * up
    assert close(gated_activation(x, "gelu_tanh"), expected, bound)


def test_gated_activation_can_be_clamped():
    gate, up = torch.tensor([[9.0, -9.0, 1.0]]), torch.tensor([[9.0, -9.0, 0.5]])
    held = torch.tensor([[7.0, -9.0, 1.0]])
    expected = held / (1 + (-1.702 * held).exp()) * torch.tensor([[8.0, -6.0, 1.5]])
    assert close(gated_activation(torch.cat((gate, up), -1), "clamped"), expected, 1e-6)


def test_a_soft_cap_bounds_logits_and_leaves_small_ones():
    out = soft_cap(torch.tensor([[0.01, -0.01, 1000.0, -1000.0, 30.0]]), 30.0)
    assert out.tolist() == [pytest.approx([0.01, -0.01, 30.0, -30.0, 30.0 * 0.76159416])]


# -- the compiled kernels against the references, in bfloat16


@pytest.fixture(scope="module", params=COMPILERS)
def compiler(request):
    return COMPILERS[request.param]


@pytest.mark.parametrize("shape", [(1, 8), (5, 33), (7, 576)])
def test_compiled_norms_agree_with_the_reference(compiler, shape):
    add_norm = rms_norm_cpu.build(compiler)
    x, residual, weight = torch.randn(shape).bfloat16(), torch.randn(shape), torch.randn(shape[-1])
    ours, theirs = residual.clone(), residual.clone()
    assert close(add_norm(x, ours, weight, 1e-5), add_rms_norm(x, theirs, weight, 1e-5), 4e-3)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [(1, 8), (5, 33), (7, 576)])
@pytest.mark.parametrize("normed", ["x", "sum", "both", ""])
def test_compiled_norms_of_what_is_added_agree_with_the_reference(compiler, normed, shape):
    add_norm = rms_norm_cpu.build(compiler)
    x, residual, weight = torch.randn(shape).bfloat16(), torch.randn(shape), torch.randn(shape[-1])
    ours, theirs = residual.clone(), residual.clone()
    options = (weight if normed in ("sum", "both") else None, 1e-5, weight.flip(0) if normed in ("x", "both") else None)
    assert close(add_norm(x, ours, *options, 0.22), add_rms_norm(x, theirs, *options, 0.22), 4e-3)
    assert close(ours, theirs, 1e-6)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "clamped"])
def test_compiled_activation_agrees_with_the_reference(compiler, activation):
    x = torch.cat((torch.randn(3, 66) * 4, torch.tensor([[-200.0, 200.0, 0.0, -88.5] + [1.0] * 62]))).bfloat16()
    out = gated_activation_cpu.build(compiler)(x, activation)
    assert not out.isnan().any()
    assert close(out, gated_activation(x, activation), 4e-3)


def test_the_compiled_soft_cap_agrees_with_the_reference(compiler):
    x = torch.cat((torch.randn(3, 66) * 40, torch.tensor([[-1e9, 1e9, 0.0, -30.0] + [1.0] * 62])))
    out = soft_cap_cpu.build(compiler)(x.clone(), 30.0)
    assert close(out, soft_cap(x.clone(), 30.0), 1e-6)
    assert torch.equal(soft_cap_cpu.build(compiler)(x[1:2, 5:].clone(), 30.0), out[1:2, 5:])


@pytest.mark.parametrize("widths", [(16, 8), (37, 3), (576, 192)])
def test_compiled_square_sums_agree_with_the_reference(compiler, widths):
    x = torch.randn(5, sum(widths) + 20).bfloat16()
    assert close(square_sums_cpu.build(compiler)(x, *widths), square_sums(x, *widths), 1e-6)


@pytest.mark.parametrize("normed", ["each head", "all heads", ""])
@pytest.mark.parametrize("num_rotated", [8, 16])
def test_compiled_qkv_rotary_agrees_with_the_reference(compiler, normed, num_rotated):
    heads, kv_heads, dim, block_size, num_blocks = 6, 2, 16, 4, 2
    qkv, cos_sin = torch.randn(4, (heads + 2 * kv_heads) * dim).bfloat16(), table(20, num_rotated)
    sizes = (heads * dim, kv_heads * dim) if normed == "all heads" else (dim, dim)
    norms = tuple(map(torch.rand, sizes)) if normed else (None, None)
    squares = {"squares_T2": torch.rand(4, 2)} if normed == "all heads" else {}
    positions, slots = torch.tensor([3, 4, 19, 0]), torch.tensor([1, 5, -1, 6])
    shape = (num_blocks, kv_heads, block_size, dim)
    caches = [torch.full(shape, 7.0).bfloat16() for _ in range(4)]
    spec = QkvSpec(cos_sin, *norms, 1e-6)
    ours = qkv_rotary_cpu.build(compiler)(qkv.clone(), tuple(caches[:2]), positions, slots, spec, **squares)
    theirs = qkv_rotary(qkv.clone(), tuple(caches[2:]), positions, slots, spec, **squares)
    assert close(ours, theirs, 1e-2)
    keys = caches[0].view(num_blocks, kv_heads, dim // 2, block_size, 2).transpose(2, 3).reshape(shape)
    values = caches[1].view(num_blocks, kv_heads, block_size // 2, dim, 2).transpose(3, 4).reshape(shape)
    assert close(keys, caches[2], 1e-2)
    assert torch.equal(values, caches[3])
