"""Interleaved RoPE checkpoints, whose rotary pairs are neighboring rows, permuted to half-rotated (NeoX) ones."""

import torch
from torch import Tensor

from engine.arch.mixer_spec import LatentAttention, Mixer, SelfAttention, rope_of
from engine.arch.model_arch import ModelArch
from engine.checkpoint.layer_names import layer_index
from engine.checkpoint.matrix import Matrix
from engine.checkpoint.shard import Shard
from engine.checkpoint.tensor_source import TensorSource

__all__ = ["HalfRotatedRows"]


class HalfRotatedRows:
    """Permutes the rows of queries and keys within each head; other tensors pass unchanged.

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
        """The permutation of `count` rows; None: the tensor has no rotated rows."""
        index = layer_index(name)
        if index is None or ".self_attn." not in name:
            return None
        mixer, (part, _, rest) = self._layers[index].mixer, name.split(".self_attn.")[1].partition(".")
        kept = _kept_dims(mixer, part, rest)
        rope = rope_of(mixer)
        if rope is None or kept is None:
            return None
        before, after = kept
        turned = torch.arange(rope.dim).view(-1, 2).T.flatten() + before
        head_dim = before + rope.dim + after
        order = torch.cat((torch.arange(before), turned, torch.arange(head_dim - after, head_dim)))
        return (torch.arange(0, count, head_dim)[:, None] + order).flatten()


def _kept_dims(mixer: Mixer | None, part: str, rest: str) -> tuple[int, int] | None:
    """The dimensions before and after the rotated ones, of each head of a projection; None: none is rotated.

    self_attn.indexer.wk.weight   `part` is indexer, `rest` is wk.weight
    """
    if isinstance(mixer, SelfAttention):
        rotated = 0 if mixer.rope is None else mixer.rope.dim
        return (0, mixer.head_dim - rotated) if part in ("q_proj", "k_proj") else None
    if not isinstance(mixer, LatentAttention):
        return None
    if part == "indexer" and mixer.indexer is not None:
        rotated = mixer.indexer.interleaved_rope and rest.partition(".")[0] in ("wq_b", "wk", "k_norm")
        return (0, mixer.indexer.head_dim - mixer.rope_dim) if rotated else None
    if part in ("q_proj", "q_b_proj"):
        return mixer.nope_dim, 0
    return (mixer.kv_rank, 0) if part == "kv_a_proj_with_mqa" else None
