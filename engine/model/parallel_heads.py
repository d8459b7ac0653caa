"""Attention and Mamba-2 heads side by side in one layer, as Falcon-H1 has them (arXiv 2507.22448)."""

from torch import Tensor

from engine.model.attention import Attention
from engine.model.forward_batch import LayerBatch
from engine.model.mamba import Mamba2

__all__ = ["ParallelHeads"]


class ParallelHeads:
    def __init__(self, attention: Attention, mamba: Mamba2) -> None:
        self._attention, self._mamba = attention, mamba

    def __call__(self, x_TM: Tensor, batch: LayerBatch, cache: tuple[Tensor, ...]) -> Tensor:
        """[T, M], added up over ranks. The cache has keys and values, then the state."""
        attended_TM = self._attention(x_TM, batch, cache[:2])
        scanned_TM = self._mamba(x_TM, batch, cache[2:])
        return (attended_TM.float() + scanned_TM.float()).to(x_TM.dtype)
