"""LayerNorm after the residual sum. The reference, on every device."""

import torch
from torch import Tensor

__all__ = ["add_layer_norm"]


def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight_M: Tensor | None,
    bias_M: Tensor | None,
    eps: float,
    x_scale: float = 1.0,
) -> Tensor:
    """Adds x to the residual stream and returns the LayerNorm of the sum.

    x         [..., M]
    residual  [..., M] fp32, contiguous, written in place: residual + x_scale * x
    weight_M  [M] fp32; None returns the sum as it is
    bias_M    [M] fp32; None is none

    Computed in fp32, a row's bits the same in any batch, and returned in x's dtype.
    """
    residual += x.float() * x_scale
    if weight_M is None:
        return residual.to(x.dtype)
    return torch.nn.functional.layer_norm(residual, weight_M.shape, weight_M, bias_M, eps).to(x.dtype)
