"""Column-parallel and row-parallel linear layers of one decoder layer: this rank's shards."""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from engine.checkpoint.matrix import Matrix, kind_of, stacked
from engine.checkpoint.shard import Shard
from engine.checkpoint.weights import Weights
from engine.parallel.tensor_parallel import TensorParallel
from kernels.kernel_set import KernelSet
from kernels.operations import LinearKernel
from kernels.quantized_linear.reference import GroupQuantized

__all__ = ["Linears", "linear_of"]


class Linears:
    """`at` is the decoder layer's prefix among the weights."""

    def __init__(self, weights: Weights, kernels: KernelSet, at: str, tp: TensorParallel) -> None:
        self._weights = weights
        self._kernels = kernels
        self._at = at
        self._tp = tp

    def column_parallel(self, parts: dict[str, tuple[int, Shard]], in_dim: int, bias: bool) -> LinearKernel:
        """One linear layer of several stacked matrices, this rank's rows of each."""
        matrices = [
            self._weights.take_matrix(f"{self._at}.{name}.weight", dim, in_dim, part=part)
            for name, (dim, part) in parts.items()
        ]
        biases = [
            self._weights.take(f"{self._at}.{name}.bias", dim, part=part) for name, (dim, part) in parts.items() if bias
        ]
        return linear_of(self._kernels, matrices, torch.cat(biases) if biases else None)

    def row_parallel(self, name: str, out_dim: int, in_dim: int, part: Shard, bias: bool) -> LinearKernel:
        """This rank's columns; the first rank adds the bias."""
        matrix = self._weights.take_matrix(f"{self._at}.{name}.weight", out_dim, in_dim, part=part)
        bias_M = self._weights.take(f"{self._at}.{name}.bias", out_dim) if bias else None
        return linear_of(self._kernels, [matrix], bias_M if self._tp.rank == 0 else None)


def linear_of(
    kernels: KernelSet,
    parts: Sequence[Matrix],
    bias_O: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> LinearKernel:
    """x -> x @ weight.T + bias, where the weight is the parts stacked along their outputs.

    Neighbors of one kind become one matrix; `kernels` must have a quantized_linear if a part is group-quantized.
    """
    runs = [stacked(list(run)) for _, run in groupby(parts, kind_of)]
    num_out = [run.shape[0] for run in runs]
    biases = [None] * len(runs) if bias_O is None else torch.split(bias_O, num_out)
    linears = [_linear(kernels, run, bias, out_dtype) for run, bias in zip(runs, biases, strict=True)]
    return linears[0] if len(linears) == 1 else _ConcatenatedLinears(linears)


def _linear(kernels: KernelSet, matrix: Matrix, bias_O: Tensor | None, out_dtype: torch.dtype | None) -> LinearKernel:
    if not isinstance(matrix, GroupQuantized):
        return kernels.linear(matrix, bias_O, out_dtype)
    assert kernels.quantized_linear is not None
    return kernels.quantized_linear(matrix, bias_O, out_dtype)


class _ConcatenatedLinears:
    def __init__(self, linears: Sequence[Callable[[Tensor], Tensor]]) -> None:
        self._linears = linears

    def __call__(self, x_TI: Tensor) -> Tensor:
        return torch.cat([linear(x_TI) for linear in self._linears], dim=-1)
