"""A linear layer's weight as a checkpoint has it, dense or in groups of integers, and what multiplies with it."""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from engine.tensor_parallel import Part
from kernels.kernel_set import KernelSet, LinearKernel
from kernels.quantised_linear.reference import GroupedInts

__all__ = ["Matrix", "cut", "linear_of", "stacked"]

Matrix = Tensor | GroupedInts


def cut(matrix: Matrix, part: Part | None) -> Matrix:
    """A part of it. Where a group would be cut in two, its numbers are dense from then on."""
    if part is None:
        return matrix
    if isinstance(matrix, GroupedInts):
        if part.dim == 0:
            return matrix.rows(slice(part.start, part.stop))
        columns = matrix.columns(part.start, part.stop)
        if columns is not None:
            return columns
        matrix = matrix.dense()
    return matrix.narrow(part.dim, part.start, part.stop - part.start).contiguous()


def linear_of(
    kernels: KernelSet,
    parts: Sequence[Matrix],
    bias_O: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> LinearKernel:
    """x -> x @ weight.T + bias, where the weight is the parts one below the other.

    Neighbours of one kind become one matrix; `kernels` must have a quantised_linear if there are integers.
    """
    runs = [_stacked(list(run)) for _, run in groupby(parts, _kind)]
    num_out = [run.shape[0] for run in runs]
    biases = [None] * len(runs) if bias_O is None else torch.split(bias_O, num_out)
    linears = [_linear(kernels, run, bias, out_dtype) for run, bias in zip(runs, biases, strict=True)]
    return linears[0] if len(linears) == 1 else _SideBySide(linears)


def stacked(parts: Sequence[Matrix], dtype: torch.dtype) -> Matrix:
    """One below the other; where they are not of one kind, all are made dense."""
    if len({_kind(part) for part in parts}) == 1:
        return _stacked(list(parts))
    return torch.cat([part if isinstance(part, Tensor) else part.dense().to(dtype) for part in parts])


def _kind(matrix: Matrix) -> object:
    return matrix.kind if isinstance(matrix, GroupedInts) else None


def _stacked(run: list[Matrix]) -> Matrix:
    ints = [part for part in run if isinstance(part, GroupedInts)]
    return GroupedInts.stack(ints) if ints else torch.cat([part for part in run if isinstance(part, Tensor)])


def _linear(kernels: KernelSet, matrix: Matrix, bias_O: Tensor | None, out_dtype: torch.dtype | None) -> LinearKernel:
    if not isinstance(matrix, GroupedInts):
        return kernels.linear(matrix, bias_O, out_dtype)
    assert kernels.quantised_linear is not None
    return kernels.quantised_linear(matrix, bias_O, out_dtype)


class _SideBySide:
    def __init__(self, linears: Sequence[Callable[[Tensor], Tensor]]) -> None:
        self._linears = linears

    def __call__(self, x_TI: Tensor) -> Tensor:
        return torch.cat([linear(x_TI) for linear in self._linears], dim=-1)
