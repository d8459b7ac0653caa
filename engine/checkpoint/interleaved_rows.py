"""Interleaved RoPE checkpoints, whose rotary pairs are neighboring rows, permuted to half-rotated (NeoX) ones."""

import torch
from torch import Tensor

from engine.checkpoint.arch import ModelArch
from engine.checkpoint.matrix import Matrix
from engine.checkpoint.shard import Shard
from engine.checkpoint.tensor_source import TensorSource

__all__ = ["HalfRotatedRows"]


class HalfRotatedRows:
    """Permutes the rows of `q_proj` and `k_proj` within each head; other tensors pass unchanged.

    rotated dimensions   0 1 2 3 4 5   become   0 2 4 1 3 5; those that are not rotated stay
    """

    def __init__(self, source: TensorSource, arch: ModelArch) -> None:
        self._source = source
        self._head_dim = arch.head_dim
        turned = torch.arange(arch.rotary_dim).view(-1, 2).T.flatten()
        self._order = torch.cat((turned, torch.arange(arch.rotary_dim, arch.head_dim)))

    def names(self) -> set[str]:
        return self._source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(name)

    def read(self, name: str, part: Shard | None = None) -> Tensor:
        tensor = self._source.read(name, part)
        return tensor[self._rows(len(tensor))] if _is_turned(name) else tensor

    def read_matrix(self, name: str, part: Shard | None = None) -> Matrix:
        matrix = self._source.read_matrix(name, part)
        if not _is_turned(name):
            return matrix
        rows = self._rows(matrix.shape[0])
        return matrix[rows] if isinstance(matrix, Tensor) else matrix.rows(rows)

    def _rows(self, count: int) -> Tensor:
        """The permutation of `count` rows, whole heads."""
        return (torch.arange(0, count, self._head_dim)[:, None] + self._order).flatten()


def _is_turned(name: str) -> bool:
    return ".self_attn.q_proj." in name or ".self_attn.k_proj." in name
