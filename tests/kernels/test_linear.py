import pytest
import torch

from kernels.linear import cpu, reference


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("num_rows", [1, 2, 17])
def test_packed_linear_agrees_with_the_reference(num_rows, bias):
    if not cpu.is_supported():
        pytest.skip("this CPU or torch does not pack bfloat16 weights")
    weight, x = torch.randn(48, 96).bfloat16(), torch.randn(num_rows, 96).bfloat16()
    b = torch.randn(48).bfloat16() if bias else None
    expected = reference.Linear(weight.double(), b.double() if bias else None)(x.double())
    out = cpu.Linear(weight, b)(x)
    assert (out.double() - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize("shape", [(576, 960), (1536, 576), (64, 257)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_alone_equals_the_row_in_a_batch(shape, dtype):
    packs = dtype == torch.bfloat16 and cpu.is_supported()
    linear = (cpu if packs else reference).Linear(torch.randn(*reversed(shape)).to(dtype))
    x = torch.randn(33, shape[0]).to(dtype)
    whole = linear(x)
    for size in (1, 2, 3, 8, 16, 32):
        assert torch.equal(linear(x[:size]), whole[:size]), size
