import pytest
import torch

from kernels.quantized_linear import triton as quantized_linear
from kernels.quantized_linear.triton import MANY_ROWS, QuantizedLinear
from tests.kernels.test_quantized_linear import random_ints

# bits, least, offsets, group
KINDS = [
    (4, 0, True, 32),
    (4, -8, False, 64),
    (4, -8, True, 128),
    (4, 0, False, 96),
    (8, -128, True, 32),
    (8, -128, False, 256),
]
BOUNDS = [(torch.float32, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)]


@pytest.fixture(autouse=True)
def filled_with_nan(monkeypatch):
    """What nobody writes is not a number."""

    def empty(*args, **options):
        return torch.full(*args, torch.nan, **options)

    monkeypatch.setattr("kernels.quantized_linear.triton.torch.empty", empty)


def rows(num_rows, num_in, dtype):
    """Followed in memory by what is not a number."""
    held = torch.full((num_rows + 70, num_in), torch.nan, dtype=dtype)
    held[:num_rows] = torch.randn(num_rows, num_in)
    return held[:num_rows]


def error(out, expected):
    assert not out.isnan().any()
    return ((out.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize(("bits", "least", "offsets", "group"), KINDS)
@pytest.mark.parametrize("batch_invariant", [True, False])
def test_agrees_with_float64(batch_invariant, bits, least, offsets, group, dtype, bound):
    weight, x = random_ints(70, 3 * group, least, offsets, group, bits), rows(3, 3 * group, dtype)
    bias = torch.randn(70).to(dtype) if offsets else None
    expected = x.double() @ weight.dense().double().T + (0 if bias is None else bias.double())
    out = QuantizedLinear(weight, bias, batch_invariant=batch_invariant)(x)
    assert out.dtype == dtype
    assert error(out, expected) < bound


@pytest.mark.parametrize("offsets", [True, False])
def test_sums_are_cut_and_merged(offsets, monkeypatch):
    weight, x = random_ints(70, 1152, 0, offsets), rows(17, 1152, torch.bfloat16)
    bias = torch.randn(70).bfloat16()
    assert quantized_linear.launch(17, 70, 1152, x.device)["SPLITS"] == 3
    out = QuantizedLinear(weight, bias, torch.float32)(x)
    assert out.dtype == torch.float32
    assert error(out, x.double() @ weight.dense().double().T + bias.double()) < 1e-5


@pytest.mark.parametrize(("bits", "least", "offsets", "group"), KINDS)
def test_many_rows_are_multiplied_with_the_widened_matrix(bits, least, offsets, group):
    weight, x = random_ints(70, 2 * group, least, offsets, group, bits), rows(MANY_ROWS, 2 * group, torch.bfloat16)
    bias = torch.randn(70).bfloat16()
    linear = QuantizedLinear(weight, bias)
    assert torch.equal(linear._widened(torch.float32), weight.dense())
    assert error(linear(x), x.double() @ weight.dense().double().T + bias.double()) < 1e-2


@pytest.mark.parametrize("offsets", [True, False])
def test_a_row_is_the_same_in_any_batch_and_at_any_place(offsets):
    weight, x = random_ints(72, 640, 0, offsets), rows(70, 640, torch.bfloat16)
    linear = QuantizedLinear(weight, batch_invariant=True)
    whole = linear(x)
    for num_rows in (1, 17, 33, 64):
        order = torch.randperm(70)[:num_rows]
        assert torch.equal(linear(x[:num_rows]), whole[:num_rows]), num_rows
        assert torch.equal(linear(x[order]), whole[order]), num_rows


def test_few_rows_are_the_same_in_any_small_batch():
    linear, x = QuantizedLinear(random_ints(72, 640)), rows(16, 640, torch.bfloat16)
    whole = linear(x)
    assert all(torch.equal(linear(x[:num_rows]), whole[:num_rows]) for num_rows in (1, 2, 15))
