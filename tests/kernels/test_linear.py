import pytest
import torch

from kernels.linear import cpu, cuda, onednn, reference
from kernels.native.compiler import find_compiler
from tests.kernels.cpus import COMPILERS, EMULATED

COMPILER = find_compiler()
KINDS = {"reference": reference.Linear}
if onednn.is_supported():
    KINDS["onednn"] = onednn.Linear
KINDS |= {f"compiled for {name}": cpu.build(compiler) for name, compiler in COMPILERS.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 96, 48), (2, 33, 130), (17, 96, 64), (260, 160, 130)])
def test_bfloat16_linear_agrees_with_float64(kind, shape, bias):
    num_rows, num_in, num_out = shape
    weight, x = torch.randn(num_out, num_in).bfloat16(), torch.randn(num_rows, num_in).bfloat16()
    b = torch.randn(num_out).bfloat16() if bias else None
    expected = x.double() @ weight.double().T + (b.double() if bias else 0)
    out = KINDS[kind](weight, b)(x)
    assert out.dtype == torch.bfloat16
    assert (out.double() - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_can_be_wider_than_the_weight(kind):
    weight, x = torch.randn(40, 96).bfloat16(), torch.randn(3, 96).bfloat16()
    out = KINDS[kind](weight, None, torch.float32)(x)
    expected = x.double() @ weight.double().T
    assert out.dtype == torch.float32
    assert (out.double() - expected).norm() / expected.norm() < (1e-5 if kind.startswith("compiled") else 1e-2)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("compiled")])
@pytest.mark.parametrize("num_out", [1, 15, 64, 130])
def test_the_narrow_output_is_the_wide_one_rounded(kind, num_out):
    weight, x = torch.randn(num_out, 96).bfloat16(), torch.randn(19, 96).bfloat16()
    bias = torch.randn(num_out).bfloat16()
    wide = KINDS[kind](weight, bias, torch.float32)(x)
    assert torch.equal(KINDS[kind](weight, bias)(x), wide.bfloat16())


SIZES = (1, 2, 3, 5, 6, 7, 8, 13, 16, 32, 64)
FEW_SIZES = (1, 3, 6, 13)  # where a multiplication takes 10 ns and more


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("compiled")])
@pytest.mark.parametrize("shape", [(576, 960), (1536, 576), (64, 257)])
def test_a_row_alone_equals_the_row_in_a_batch(shape, kind):
    is_emulated = kind.removeprefix("compiled for ") in EMULATED
    num_out = min(shape[1], 66) if is_emulated else shape[1]
    linear, x = KINDS[kind](torch.randn(num_out, shape[0]).bfloat16()), torch.randn(130, shape[0]).bfloat16()
    whole = linear(x)
    for size in FEW_SIZES if is_emulated else SIZES:
        assert torch.equal(linear(x[:size]), whole[:size]), size


@pytest.mark.parametrize("shape", [(576, 960), (1536, 576), (64, 257)])
def test_in_float32_a_row_alone_is_the_row_in_a_batch_but_for_rounding(shape):
    """More is not promised: which rows the library adds up in which order depends on the CPU."""
    linear, x = reference.Linear(torch.randn(*reversed(shape))), torch.randn(130, shape[0])
    whole = linear(x)
    for size in SIZES:
        assert (linear(x[:size]) - whole[:size]).norm() / whole[:size].norm() < 1e-6, size


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_threads_do_not_change_a_sum():
    linear, x = cpu.build(COMPILER)(torch.randn(300, 96).bfloat16()), torch.randn(9, 96).bfloat16()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = linear(x)
        torch.set_num_threads(3)
        assert torch.equal(linear(x), alone)
    finally:
        torch.set_num_threads(threads)


class OfACard:
    """What a product on a GPU is asked with; there is none here."""

    is_cuda, dtype = True, torch.bfloat16

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)


@pytest.mark.parametrize("bias", [False, True])
def test_on_a_gpu_sums_are_not_rounded_where_fp32_is_asked_for(monkeypatch, bias):
    x, weight = torch.randn(3, 40).bfloat16(), torch.randn(9, 40).bfloat16()
    bias_O = torch.randn(9).bfloat16() if bias else None
    asked = []

    def mm(left, right, out_dtype):
        asked.append(out_dtype)
        return left.x.to(out_dtype) @ right.to(out_dtype)

    monkeypatch.setattr(cuda.torch, "mm", mm)
    out = cuda.Linear(weight, bias_O, torch.float32)(OfACard(x))
    expected = x.double() @ weight.double().T + (bias_O.double() if bias else 0)
    assert asked == [torch.float32] and out.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    here = cuda.Linear(weight, bias_O, torch.float32)(x)  # a CPU's library rounds
    torch.testing.assert_close(here, reference.Linear(weight, bias_O, torch.float32)(x), atol=0, rtol=0)
    assert len(asked) == 1
