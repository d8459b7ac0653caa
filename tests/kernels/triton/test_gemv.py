import pytest
import torch

from kernels.launch import measured
from kernels.linear.gemv_triton import gemv, launch

CPU = torch.device("cpu")
BOUNDS = {torch.float16: 1e-3, torch.bfloat16: 1e-2}


@pytest.fixture(autouse=True)
def filled_with_nan(monkeypatch):
    def empty(*args, **options):
        return torch.full(*args, torch.nan, **options)

    monkeypatch.setattr("kernels.linear.gemv_triton.torch.empty", empty)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 16), (48, 96), (130, 1000), (7, 2048)])
def test_a_row_agrees_with_float64(shape, bias, dtype):
    x, weight, b = torch.randn(1, shape[1]).to(dtype), torch.randn(shape).to(dtype), torch.randn(shape[0]).to(dtype)
    expected = x.double() @ weight.double().T + (b.double() if bias else 0)
    for out_dtype, bound in ((dtype, BOUNDS[dtype]), (torch.float32, 1e-5)):
        out = gemv(x, weight, b if bias else None, out_dtype)
        assert out.dtype == out_dtype and out.shape == expected.shape
        assert ((out.double() - expected).norm() / expected.norm()).item() < bound


@pytest.mark.parametrize("config", [{"BLOCK_O": 2, "BLOCK_I": 512}, {"BLOCK_O": 8, "BLOCK_I": 256, "STAGES": 4}])
def test_launch_parameters_change_no_more_than_roundings(config):
    x, weight = torch.randn(1, 600).bfloat16(), torch.randn(20, 600).bfloat16()
    expected = gemv(x, weight, None, torch.float32)
    table = measured(launch.__code__.co_filename, CPU)
    table["gemv O=20 I=600"] = config
    try:
        torch.testing.assert_close(gemv(x, weight, None, torch.float32), expected, rtol=1e-4, atol=1e-4)
    finally:
        table.clear()
