"""Rotary position embedding (RoPE). The reference."""

import torch
from torch import Tensor

__all__ = ["rotary"]


def rotary(x_THD: Tensor, cos_sin_CR: Tensor, positions_T: Tensor) -> Tensor:
    """Rotates pairs (i, i + R/2) of the first R dimensions by an angle that depends on the position.

    x_THD        [T, H, D], R <= D; dimensions from R on pass unchanged
    cos_sin_CR   [C, R] fp32   row p holds the cosines of R/2 angles, then their sines
    positions_T  [T] int64     in [0, C)

    Computed in fp32, returned in x's dtype.
    """
    num_rotated = cos_sin_CR.shape[1]
    cos, sin = cos_sin_CR[positions_T].unsqueeze(1).chunk(2, -1)
    rotated, rest = x_THD[..., :num_rotated], x_THD[..., num_rotated:]
    first, second = rotated.float().chunk(2, -1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    return torch.cat((turned.to(x_THD.dtype), rest), -1)
