"""The activation of an MLP without gate: squared ReLU, xIELU, GELU. The reference, on every device."""

from math import pi
from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["Xielu", "activation"]


class Xielu(NamedTuple):
    """The learned numbers of xIELU (arXiv 2411.13010)."""

    alpha_p: float
    alpha_n: float
    beta: float
    eps: float


def activation(
    x_TF: Tensor, kind: Literal["relu2", "xielu", "gelu", "gelu_tanh"], xielu: Xielu | None = None
) -> Tensor:
    """Squared ReLU, max(x, 0)^2; xIELU: a parabola for x > 0, and a line with an exponential below; GELU, also its
    approximation by tanh.

    x_TF   [T, F]
    xielu  of that kind alone

    Returns [T, F] in the same dtype, computed in fp32 or wider.
    """
    if kind == "relu2":
        return x_TF.float().relu().square().to(x_TF.dtype)
    if xielu is not None:
        return _xielu(x_TF.float(), xielu).to(x_TF.dtype)
    return _gelu(x_TF, kind == "gelu_tanh").to(x_TF.dtype)


def _gelu(x: Tensor, is_tanh: bool) -> Tensor:
    """As products: 1 + tanh and 1 + erf of negative numbers would show how these are rounded."""
    # in float64, so that rounding does not depend on where a number stands in its tensor
    wide = x.double() if x.device.type == "cpu" else x.float()
    if is_tanh:
        return wide * torch.sigmoid(2 * (2 / pi) ** 0.5 * (wide + 0.044715 * wide**3))
    return wide * torch.erfc(wide * -(0.5**0.5)) / 2


def _xielu(x: Tensor, xielu: Xielu) -> Tensor:
    above = xielu.alpha_p * x.square()
    # in float64, so that rounding does not depend on where a number stands in its tensor
    below = (x.clamp(max=xielu.eps).double().expm1().float() - x) * xielu.alpha_n
    return torch.where(x > 0, above, below) + xielu.beta * x
