import pytest
import torch

from kernels.linear.triton import Linear

BOUNDS = [(torch.float32, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)]


@pytest.fixture(autouse=True)
def filled_with_nan(monkeypatch):
    """What nobody writes is not a number."""

    def empty(*args, **options):
        return torch.full(*args, torch.nan, **options)

    monkeypatch.setattr("kernels.linear.triton.torch.empty", empty)


def make(num_rows, num_in, num_out, dtype):
    """Rows, weight and bias, each followed in memory by what is not a number."""

    def random(*shape):
        held = torch.full((shape[0] + 70, *shape[1:]), torch.nan, dtype=dtype)
        held[: shape[0]] = torch.randn(shape)
        return held[: shape[0]]

    return random(num_rows, num_in), random(num_out, num_in), random(num_out)


def error(out, expected):
    assert not out.isnan().any()
    return ((out.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 96, 48), (2, 33, 130), (17, 64, 64), (130, 128, 70)])
def test_linear_agrees_with_float64(shape, bias, dtype, bound):
    x, weight, b = make(*shape, dtype)
    expected = x.double() @ weight.double().T + (b.double() if bias else 0)
    out = Linear(weight, b if bias else None)(x)
    assert out.dtype == dtype
    assert error(out, expected) < bound


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_output_can_be_wider_than_the_weight(dtype):
    x, weight, _ = make(3, 96, 40, dtype)
    out = Linear(weight, None, torch.float32)(x)
    assert out.dtype == torch.float32
    assert error(out, x.double() @ weight.double().T) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_the_same_in_any_batch_and_at_any_place(dtype):
    x, weight, b = make(150, 200, 72, dtype)
    linear = Linear(weight, b)
    whole = linear(x)
    for num_rows in (1, 2, 17, 64, 65):
        assert torch.equal(linear(x[:num_rows]), whole[:num_rows]), num_rows
        order = torch.randperm(150)[:num_rows]
        assert torch.equal(linear(x[order]), whole[order]), num_rows


def test_a_row_of_padding_spoils_no_other():
    x, weight, _ = make(9, 96, 40, torch.bfloat16)
    linear = Linear(weight)
    alone = linear(x)
    padded = linear(torch.cat((torch.full((2, 96), torch.nan).bfloat16(), x)))
    assert torch.equal(padded[2:], alone)


def test_groups_of_tiles_cover_every_output():
    x, weight, _ = make(64 * 9 + 1, 32, 130, torch.float32)  # a group of 8 tiles of rows, and one of 2
    assert error(Linear(weight)(x), x.double() @ weight.double().T) < 1e-5
