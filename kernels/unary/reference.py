"""Functions of one number: what gates are made of. The reference, and on a GPU the kernel.

torch's own round differently on a CPU by where in a tensor a number stands; a row's bits must not depend on that.
"""

from typing import Literal

from torch import Tensor
from torch.nn.functional import silu, softplus

__all__ = ["Function", "unary"]

Function = Literal["exp", "sigmoid", "silu", "softplus"]


def unary(x: Tensor, function: Function) -> Tensor:
    """exp(x); sigmoid, 1 / (1 + exp(-x)); silu, x * sigmoid(x); softplus, log(1 + exp(x)).

    x  of any shape and strides, any float dtype

    Returns fp32 of x's shape, contiguous.
    """
    wide = x.float().contiguous()
    match function:
        case "exp":
            return wide.exp()
        case "sigmoid":
            return wide.sigmoid()
        case "silu":
            return silu(wide)
        case "softplus":
            return softplus(wide)
