"""Interleaved RoPE checkpoints, whose rotary pairs are neighboring rows, permuted to half-rotated (NeoX) ones."""

import torch
from torch import Tensor

from engine.arch.model_arch import ModelArch
from engine.checkpoint.layer_names import layer_index
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
        self._layers = arch.layers

    def names(self) -> set[str]:
        return self._source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(name)

    def read(self, name: str, part: Shard | None = None) -> Tensor:
        tensor = self._source.read(name, part)
        rows = self._rows(name, len(tensor)) if tensor.dim() else None
        return tensor if rows is None else tensor[rows]

    def read_matrix(self, name: str, part: Shard | None = None) -> Matrix:
        matrix = self._source.read_matrix(name, part)
        rows = self._rows(name, matrix.shape[0])
        if rows is None:
            return matrix
        return matrix[rows] if isinstance(matrix, Tensor) else matrix.rows(rows)

    def _rows(self, name: str, count: int) -> Tensor | None:
        """The permutation of `count` rows, whole heads; None: the tensor has no rotated rows."""
        index = layer_index(name)
        if index is None or not (".self_attn.q_proj." in name or ".self_attn.k_proj." in name):
            return None
        mixer = self._layers[index].mixer
        if mixer.rope is None:
            return None
        turned = torch.arange(mixer.rope.dim).view(-1, 2).T.flatten()
        order = torch.cat((turned, torch.arange(mixer.rope.dim, mixer.head_dim)))
        return (torch.arange(0, count, mixer.head_dim)[:, None] + order).flatten()
