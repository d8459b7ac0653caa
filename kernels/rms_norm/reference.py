"""Root-mean-square norm, alone and after the residual sum."""

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


def add_rms_norm(x: Tensor, residual: Tensor, weight_M: Tensor, eps: float) -> Tensor:
    """Adds x to the residual stream and returns the norm of the sum.

    x         [..., M]
    residual  [..., M] fp32, written in place: residual + x

    Computed in fp32, returned in x's dtype.
    """
    residual += x
    return rms_norm(residual, weight_M, eps).to(x.dtype)
