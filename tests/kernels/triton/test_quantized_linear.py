import pytest
import torch

from kernels.launch import measured
from kernels.quantized_linear import gemv_triton
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


@pytest.fixture
def table():
    """Launch parameters, as if measured here."""
    table = measured(str(quantized_linear.__file__), torch.device("cpu"))
    yield table
    table.clear()


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
@pytest.mark.parametrize(("num_rows", "batch_invariant"), [(1, False), (3, False), (3, True)])
def test_agrees_with_float64(num_rows, batch_invariant, bits, least, offsets, group, dtype, bound):
    weight, x = random_ints(70, 3 * group, least, offsets, group, bits), rows(num_rows, 3 * group, dtype)
    bias = torch.randn(70).to(dtype) if offsets else None
    expected = x.double() @ weight.dense().double().T + (0 if bias is None else bias.double())
    out = QuantizedLinear(weight, bias, batch_invariant=batch_invariant)(x)
    assert out.dtype == dtype
    assert error(out, expected) < bound


@pytest.mark.parametrize("num_rows", [2, 7, 16, 17, 33, 64, 65])
@pytest.mark.parametrize("offsets", [True, False])
def test_any_number_of_rows_agrees_with_float64(num_rows, offsets):
    weight, x = random_ints(130, 256, 0 if offsets else -8, offsets, 64), rows(num_rows, 256, torch.bfloat16)
    out = QuantizedLinear(weight, None, torch.float32)(x)
    assert error(out, x.double() @ weight.dense().double().T) < 1e-5


@pytest.mark.parametrize(("bits", "least", "offsets", "group"), KINDS)
@pytest.mark.parametrize(("num_rows", "dtype"), [(1, torch.bfloat16), (5, torch.bfloat16), (5, torch.float16)])
def test_sums_that_are_not_rounded_are_as_of_integers(num_rows, dtype, bits, least, offsets, group):
    """Numbers are no weights that were rounded to 16 bits."""
    weight, x = random_ints(64, 2 * group, least, offsets, group, bits), rows(num_rows, 2 * group, dtype)
    out = QuantizedLinear(weight, None, torch.float32)(x)
    assert error(out, x.double() @ weight.dense().double().T) < 1e-5


@pytest.mark.parametrize("offsets", [True, False])
@pytest.mark.parametrize("summed", [0, 1])
def test_sums_are_cut_and_merged(summed, offsets, table):
    weight, x = random_ints(70, 1152, 0, offsets), rows(17, 1152, torch.bfloat16)
    bias = torch.randn(70).bfloat16()
    table["T=32 O=70 I=1152 bits=4 group=32"] = {"SUMMED": summed, "SPLITS": 4}  # of 9 chunks: 3, 3, 3 and none
    out = QuantizedLinear(weight, bias, torch.float32)(x)
    assert out.dtype == torch.float32
    assert error(out, x.double() @ weight.dense().double().T + bias.double()) < 1e-5


@pytest.mark.parametrize(("bits", "least", "offsets", "group"), KINDS)
def test_many_rows_are_multiplied_with_the_widened_matrix(bits, least, offsets, group):
    weight, x = random_ints(70, 2 * group, least, offsets, group, bits), rows(MANY_ROWS + 1, 2 * group, torch.bfloat16)
    bias = torch.randn(70).bfloat16()
    linear = QuantizedLinear(weight, bias)
    assert torch.equal(linear._widened(torch.float32), weight.dense())
    assert error(linear(x), x.double() @ weight.dense().double().T + bias.double()) < 1e-2


@pytest.mark.parametrize("dense", [0, 1])
def test_a_table_says_from_how_many_rows_on_the_matrix_is_dequantized(dense, table, monkeypatch):
    table["T=32 O=64 I=128 bits=4 group=128"] = {"DENSE": dense}
    linear, widened = QuantizedLinear(random_ints(64, 128, group=128)), []
    monkeypatch.setattr(linear, "_widened", lambda dtype: widened.append(dtype) or torch.zeros(64, 128, dtype=dtype))
    for num_rows in (16, 32, MANY_ROWS + 1):
        linear(rows(num_rows, 128, torch.bfloat16))
    assert len(widened) == 1 + dense


@pytest.mark.parametrize(("offsets", "bits"), [(True, 4), (False, 4), (True, 8)])
def test_a_row_is_the_same_in_any_batch_and_at_any_place(offsets, bits):
    weight, x = random_ints(72, 640, -128 if bits == 8 else 0, offsets, bits=bits), rows(70, 640, torch.bfloat16)
    linear = QuantizedLinear(weight, batch_invariant=True)
    whole = linear(x)
    for num_rows in (1, 17, 33, 64):
        order = torch.randperm(70)[:num_rows]
        assert torch.equal(linear(x[:num_rows]), whole[:num_rows]), num_rows
        assert torch.equal(linear(x[order]), whole[order]), num_rows


def test_few_rows_are_the_same_in_any_small_batch():
    """But for one alone, which has a kernel of its own."""
    linear, x = QuantizedLinear(random_ints(72, 640)), rows(16, 640, torch.bfloat16)
    whole = linear(x)
    assert all(torch.equal(linear(x[:num_rows]), whole[:num_rows]) for num_rows in (2, 7, 15))


@pytest.mark.parametrize("config", [{"BLOCK_O": 2, "BLOCK_W": 128}, {"BLOCK_O": 8, "BLOCK_W": 64, "STAGES": 3}])
def test_launch_parameters_of_a_row_change_no_more_than_roundings(config):
    linear, x = QuantizedLinear(random_ints(70, 1152), None, torch.float32), rows(1, 1152, torch.bfloat16)
    expected = linear(x)
    table = measured(str(gemv_triton.__file__), torch.device("cpu"))
    table["gemv O=70 I=1152 bits=4"] = config
    try:
        torch.testing.assert_close(linear(x), expected, rtol=1e-4, atol=1e-3)
    finally:
        table.clear()


def test_cuts_of_sums_follow_from_the_shape():
    device = torch.device("cpu")
    few, more = (quantized_linear.launch(num_rows, 4096, 14336, 4, 128, device) for num_rows in (2, 16))
    assert few == more
    assert few["SPLITS"] > 1
    assert quantized_linear.launch(16, 128_256, 4096, 4, 128, device)["SPLITS"] == 1
