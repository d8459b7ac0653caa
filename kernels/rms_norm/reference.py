"""RMSNorm, alone and after the residual sum. The reference."""

import torch
from torch import Tensor

__all__ = ["add_rms_norm", "rms_norm"]


def rms_norm(x: Tensor, weight_M: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    x         [..., M]
    weight_M  [M], any float dtype

    Computed in fp32, returned in x's dtype.
    """
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (scaled * weight_M.float()).to(x.dtype)


def add_rms_norm(
    x: Tensor,
    residual: Tensor,
    weight_M: Tensor | None,
    eps: float,
    x_weight_M: Tensor | None = None,
    x_scale: float = 1.0,
) -> Tensor:
    """Adds x to the residual stream and returns the norm of the sum.

    x           [..., M]
    residual    [..., M] fp32, written in place: residual + x_scale * x
    weight_M    [M] of the sum's norm; None returns the sum as it is
    x_weight_M  [M] of a norm that x goes through before that; None is no norm

    Computed in fp32, returned in x's dtype.
    """
    added = x.float() if x_weight_M is None else rms_norm(x.float(), x_weight_M, eps)
    residual += added * x_scale
    return (residual if weight_M is None else rms_norm(residual, weight_M, eps)).to(x.dtype)
