"""A linear layer's weight: a dense tensor, or group-quantized. Sharding and stacking of either."""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.checkpoint.shard import Shard
from kernels.quantized_linear.reference import GroupQuantized, concatenate

__all__ = ["Matrix", "cut", "kind_of", "stacked", "select_columns", "select_rows"]

Matrix = Tensor | GroupQuantized


def cut(matrix: Matrix, part: Shard | None) -> Matrix:
    """A shard. If the cut goes through a group, the shard is dequantized."""
    if part is None:
        return matrix
    if isinstance(matrix, GroupQuantized):
        if part.dim == 0:
            return matrix.rows(slice(part.start, part.stop))
        columns = matrix.columns(part.start, part.stop)
        if columns is not None:
            return columns
        matrix = matrix.dense()
    return matrix.narrow(part.dim, part.start, part.stop - part.start).contiguous()


def select_rows(matrix: Matrix, index: Tensor) -> Matrix:
    return matrix.rows(index) if isinstance(matrix, GroupQuantized) else matrix[index]


def select_columns(matrix: Matrix, index: Tensor) -> Matrix:
    """If a group's columns are not taken together and in order, the matrix is dequantized."""
    if isinstance(matrix, GroupQuantized):
        if (ints := matrix.select_columns(index)) is not None:
            return ints
        matrix = matrix.dense()
    return matrix[:, index]


def stacked(parts: Sequence[Matrix], dtype: torch.dtype | None = None) -> Matrix:
    """Stacks matrices along their outputs; if they are not of one kind, all are dequantized."""
    if len({kind_of(part) for part in parts}) == 1:
        return _stacked(list(parts))
    return torch.cat([part if isinstance(part, Tensor) else part.dense().to(dtype) for part in parts])


def kind_of(matrix: Matrix) -> object:
    """A key that is equal for matrices that can be stacked without dequantizing."""
    return matrix.kind if isinstance(matrix, GroupQuantized) else None


def _stacked(run: list[Matrix]) -> Matrix:
    ints = [part for part in run if isinstance(part, GroupQuantized)]
    return GroupQuantized.stack(ints) if ints else concatenate([part for part in run if isinstance(part, Tensor)])
