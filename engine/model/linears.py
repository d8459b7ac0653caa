"""The linear layers of one decoder layer, of which a rank has its share."""

import torch

from engine.model.matrix import linear_of
from engine.model.weights import Weights
from engine.tensor_parallel import Part, TensorParallel
from kernels.kernel_set import KernelSet, LinearKernel

__all__ = ["Linears"]


class Linears:
    """`at` is the layer's name among the weights."""

    def __init__(self, weights: Weights, kernels: KernelSet, at: str, tp: TensorParallel) -> None:
        self._weights = weights
        self._kernels = kernels
        self._at = at
        self._tp = tp

    def cut_by_outputs(self, parts: dict[str, tuple[int, Part]], in_dim: int, bias: bool) -> LinearKernel:
        """One matrix of several, stacked, of each this rank's rows."""
        matrices = [
            self._weights.take_matrix(f"{self._at}.{name}.weight", dim, in_dim, part=part)
            for name, (dim, part) in parts.items()
        ]
        biases = [
            self._weights.take(f"{self._at}.{name}.bias", dim, part=part) for name, (dim, part) in parts.items() if bias
        ]
        return linear_of(self._kernels, matrices, torch.cat(biases) if biases else None)

    def cut_by_inputs(self, name: str, out_dim: int, in_dim: int, part: Part, bias: bool) -> LinearKernel:
        """This rank's columns; the first rank adds the bias."""
        matrix = self._weights.take_matrix(f"{self._at}.{name}.weight", out_dim, in_dim, part=part)
        bias_M = self._weights.take(f"{self._at}.{name}.bias", out_dim) if bias else None
        return linear_of(self._kernels, [matrix], bias_M if self._tp.rank == 0 else None)
