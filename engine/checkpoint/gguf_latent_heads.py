"""Of multi-head latent attention, GGUF files have a head's up-projections of keys and of values apart."""

import torch
from torch import Tensor

from engine.checkpoint.matrix import Matrix, cut
from engine.checkpoint.shard import Shard
from engine.checkpoint.tensor_source import TensorSource

__all__ = ["JoinedLatentHeads"]

KEYS, VALUES, JOINED = "self_attn.k_b_proj.weight", "self_attn.v_b_proj.weight", "self_attn.kv_b_proj.weight"


class JoinedLatentHeads:
    """[H, L, N] of keys and [H, V, L] of values as [H * (N + V), L], as the hub has them; other tensors pass unchanged.

    H heads, L dimensions of the latent, N of a key without rotary embedding, V of a value
    """

    def __init__(self, source: TensorSource) -> None:
        self._source = source
        stems = {name.removesuffix(KEYS) for name in source.names() if name.endswith(KEYS)}
        self._stems = {stem for stem in stems if stem + VALUES in source.names()}

    def names(self) -> set[str]:
        hidden = {stem + part for stem in self._stems for part in (KEYS, VALUES)}
        return self._source.names() - hidden | {stem + JOINED for stem in self._stems}

    def shape(self, name: str) -> tuple[int, ...]:
        if (stem := name.removesuffix(JOINED)) not in self._stems:
            return self._source.shape(name)
        num_heads, latent_dim, key_dim = self._source.shape(stem + KEYS)
        return num_heads * (key_dim + self._source.shape(stem + VALUES)[1]), latent_dim

    def read(self, name: str, part: Shard | None = None) -> Tensor:
        if (stem := name.removesuffix(JOINED)) not in self._stems:
            return self._source.read(name, part)
        keys_HLN, values_HVL = self._source.read(stem + KEYS), self._source.read(stem + VALUES)
        whole = cut(torch.cat([keys_HLN.transpose(1, 2), values_HVL], 1).flatten(0, 1), part)
        assert isinstance(whole, Tensor)
        return whole

    def read_matrix(self, name: str, part: Shard | None = None) -> Matrix:
        if name.removesuffix(JOINED) not in self._stems:
            return self._source.read_matrix(name, part)
        return self.read(name, part)
