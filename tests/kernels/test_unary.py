import pytest
import torch

from kernels.native.compiler import find_compiler
from kernels.unary import cpu
from kernels.unary.reference import unary
from tests.kernels.cpus import SETS

FUNCTIONS = ("exp", "sigmoid", "silu", "softplus")
X = torch.cat((torch.linspace(-30, 30, 1999), torch.tensor([0.0, -0.0, 1e-6, -1e-6, 80.0, -80.0])))


@pytest.fixture(scope="module", params=["reference", *SETS])
def kernel(request):
    if request.param == "reference":
        return unary
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no C compiler")
    return cpu.build(compiler.for_instructions(SETS[request.param]))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_it_is_the_function(kernel, function):
    wide = X.double()
    expected = {
        "exp": wide.exp(),
        "sigmoid": wide.sigmoid(),
        "silu": wide * wide.sigmoid(),
        "softplus": wide.clamp(min=0) + (-wide.abs()).exp().log1p(),
    }[function]
    assert torch.allclose(kernel(X, function).double(), expected, rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_number_gives_the_same_wherever_it_stands(kernel, function):
    if kernel is unary:
        pytest.skip("which torch does not promise")
    whole = kernel(X, function)
    for start, stop in ((0, 1), (3, 20), (7, 40), (1000, 1017)):
        assert torch.equal(kernel(X[start:stop], function), whole[start:stop])


def test_strides_and_other_types_are_taken(kernel):
    x = torch.randn(6, 10).bfloat16()[:, 2:7]
    assert torch.allclose(kernel(x, "sigmoid"), x.float().sigmoid(), atol=1e-6)
    assert kernel(x, "silu").shape == x.shape
