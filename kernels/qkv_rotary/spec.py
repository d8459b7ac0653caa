"""What QK norm, RoPE and KV cache write are given besides activations and cache: a layer's weights and tables."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["QkvSpec"]


@dataclass(frozen=True, slots=True)
class QkvSpec:
    """Rules of a layer, bound at construction.

    cos_sin_CR            [C, R], as in rotary
    q_norm_D, k_norm_D    [D] weights of an RMS norm over each head, with eps; None is no norm
    k_scale_G, v_scale_G  [G] fp32 or None, as in write_kv
    """

    cos_sin_CR: Tensor
    q_norm_D: Tensor | None = None
    k_norm_D: Tensor | None = None
    eps: float = 0.0
    k_scale_G: Tensor | None = None
    v_scale_G: Tensor | None = None
