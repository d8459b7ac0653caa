"""What the indexer of sparse attention is given besides activations, cache and layout: rules that never change."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["IndexSpec"]


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """cos_sin_CR   [C, R] fp32, as kernels/rotary takes it; the first R dimensions of a head are rotated
    norm_weight_D  [D] fp32   of the keys' LayerNorm
    norm_bias_D    [D] fp32
    eps            of that norm
    top_k          tokens that a query attends to, at most
    """

    cos_sin_CR: Tensor
    norm_weight_D: Tensor
    norm_bias_D: Tensor
    eps: float
    top_k: int
