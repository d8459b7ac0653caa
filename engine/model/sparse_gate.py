"""Sparse activations (Gemma 3n): of a gate, all but the largest become 0, as far as they are normally distributed."""

from statistics import NormalDist

import torch
from torch import Tensor

from engine.arch.feed_forward_spec import DenseMlp
from engine.model.layer_weights import LayerWeights

__all__ = ["SparseGate"]


class SparseGate:
    def __init__(self, spec: DenseMlp, layer: LayerWeights) -> None:
        self._dim, self._tp = spec.dim, layer.tp
        self._quantile = NormalDist().inv_cdf(spec.sparsity)

    def __call__(self, gate_up_TF: Tensor) -> Tensor:
        """Of gate and up, [T, 2 F] of this rank: the gate less a quantile of all its dimensions, or 0."""
        gate_TF, up_TF = gate_up_TF.chunk(2, 1)
        gate_TF = gate_TF.float()
        mean_T1 = self._mean(gate_TF)
        cutoff_T1 = mean_T1 + self._mean((gate_TF - mean_T1).square()).sqrt() * self._quantile
        return torch.cat(((gate_TF - cutoff_T1).relu().to(up_TF.dtype), up_TF), 1)

    def _mean(self, x_TF: Tensor) -> Tensor:
        """[T, 1], over the dimensions of all ranks."""
        return self._tp.all_reduce(x_TF.sum(1, keepdim=True)) / self._dim
