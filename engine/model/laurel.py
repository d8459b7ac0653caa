"""The learned augmented residual layer (LAuReL, arXiv 2411.07501): what a layer takes, plus a low-rank projection."""

from torch import Tensor

from engine.model.layer_weights import LayerWeights
from kernels.rms_norm.reference import rms_norm

__all__ = ["Laurel"]


class Laurel:
    def __init__(self, rank: int, layer: LayerWeights) -> None:
        """Every rank has all of it."""
        dim = layer.arch.model_dim
        self._left = layer.kernels.linear(layer.take("laurel.linear_left.weight", rank, dim))
        self._right = layer.kernels.linear(layer.take("laurel.linear_right.weight", dim, rank))
        self._norm_M, self._eps = layer.take_norm("laurel.post_laurel_norm", dim), layer.arch.norm_eps

    def __call__(self, x_TM: Tensor) -> Tensor:
        """[T, M], the same on every rank."""
        normed_TM = rms_norm(self._right(self._left(x_TM)).float(), self._norm_M, self._eps)
        return (x_TM.float() + normed_TM).to(x_TM.dtype)
