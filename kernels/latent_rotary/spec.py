"""What the latent's norm, rotation and cache write are given besides activations and cache."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["LatentRotarySpec"]


@dataclass(frozen=True, slots=True)
class LatentRotarySpec:
    """Rules of a layer, bound at construction.

    cos_sin_CR  [C, R], as in rotary; R dimensions are rotated, those after the latent
    norm_L      [L] fp32: weights of the latent's RMS norm, with eps
    """

    cos_sin_CR: Tensor
    norm_L: Tensor
    eps: float
