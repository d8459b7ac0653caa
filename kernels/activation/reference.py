"""The activation of an MLP without gate: squared ReLU, xIELU. The reference, on every device."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Xielu", "activation"]


class Xielu(NamedTuple):
    """The learned numbers of xIELU (arXiv 2411.13010)."""

    alpha_p: float
    alpha_n: float
    beta: float
    eps: float


def activation(x_TF: Tensor, xielu: Xielu | None = None) -> Tensor:
    """Squared ReLU, max(x, 0)^2; or xIELU: a parabola for x > 0, and a line with an exponential below.

    x_TF  [T, F]

    Returns [T, F] in the same dtype, computed in fp32.
    """
    x = x_TF.float()
    if xielu is None:
        return x.relu().square().to(x_TF.dtype)
    above = xielu.alpha_p * x.square()
    # in float64, so that rounding does not depend on where a number stands in its tensor
    below = (x.clamp(max=xielu.eps).double().expm1().float() - x) * xielu.alpha_n
    return (torch.where(x > 0, above, below) + xielu.beta * x).to(x_TF.dtype)
