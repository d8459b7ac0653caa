import pytest
import torch

from kernels.unary import cpu
from kernels.unary.reference import unary
from tests.kernels.cpus import COMPILERS

FUNCTIONS = ("exp", "sigmoid", "silu", "softplus")


def numbers():
    return torch.cat((torch.linspace(-30, 30, 1999), torch.tensor([0.0, -0.0, 1e-6, -1e-6, 80.0, -80.0])))


@pytest.fixture(scope="module", params=["reference", *COMPILERS])
def kernel(request):
    if request.param == "reference":
        return unary
    return cpu.build(COMPILERS[request.param])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_it_is_the_function(kernel, function):
    x = numbers()
    wide = x.double()
    expected = {
        "exp": wide.exp(),
        "sigmoid": wide.sigmoid(),
        "silu": wide * wide.sigmoid(),
        "softplus": wide.clamp(min=0) + (-wide.abs()).exp().log1p(),
    }[function]
    assert torch.allclose(kernel(x, function).double(), expected, rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_number_gives_the_same_wherever_it_stands(compiler, function):
    """In the C kernels; torch does not promise it of the reference."""
    kernel, x = cpu.build(COMPILERS[compiler]), numbers()
    whole = kernel(x, function)
    for start, stop in ((0, 1), (3, 20), (7, 40), (1000, 1017)):
        assert torch.equal(kernel(x[start:stop], function), whole[start:stop])


def test_it_accepts_strides_and_other_types(kernel):
    x = torch.randn(6, 10).bfloat16()[:, 2:7]
    assert torch.allclose(kernel(x, "sigmoid"), x.float().sigmoid(), atol=1e-6)
    assert kernel(x, "silu").shape == x.shape
