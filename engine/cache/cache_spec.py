"""Cache specs: what a layer keeps of the tokens that it has seen, as data: pages of blocks, or a state."""

from typing import Literal

import msgspec

from engine.arch.mixer_spec import (
    GatedDeltaNet,
    KimiDeltaAttention,
    LatentAttention,
    LightningAttention,
    Mamba2,
    Mixer,
    ParallelHeads,
    SelfAttention,
)

__all__ = ["PageSpec", "StateSpec", "page_spec", "state_specs"]


class PageSpec(msgspec.Struct, frozen=True):
    """A layer's page of one block: `num_tensors` (keys and values, or latents) of [G, P, D]."""

    num_tensors: int
    num_heads: int  # G
    dim: int  # D

    def num_elements(self, block_size: int) -> int:
        return self.num_tensors * self.num_heads * block_size * self.dim


class StateSpec(msgspec.Struct, frozen=True):
    """A tensor of one sequence's state in a layer."""

    shape: tuple[int, ...]
    dtype: Literal["model", "float32"]

    def num_bytes(self, model_itemsize: int) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count * (4 if self.dtype == "float32" else model_itemsize)


def page_spec(mixer: Mixer | None) -> PageSpec | None:
    """None: the layer caches no tokens."""
    if isinstance(mixer, ParallelHeads):
        return page_spec(mixer.attention)
    if isinstance(mixer, SelfAttention) and mixer.kv_from is None:
        return PageSpec(2, mixer.num_kv_heads, mixer.head_dim)
    if isinstance(mixer, LatentAttention):
        # also where another layer's is used: rows of one size share blocks, which is less memory than two sizes
        index_dim = 0 if mixer.indexer is None else mixer.indexer.head_dim
        return PageSpec(1, 1, mixer.kv_rank + mixer.rope_dim + index_dim)
    return None


def state_specs(mixer: Mixer | None) -> tuple[StateSpec, ...]:
    """(): the layer has no state."""
    if isinstance(mixer, ParallelHeads):
        return state_specs(mixer.mamba)
    if mixer is None or isinstance(mixer, SelfAttention | LatentAttention):
        return ()
    if isinstance(mixer, Mamba2):
        channels = mixer.num_heads * mixer.head_dim + 2 * mixer.num_groups * mixer.state_dim
        return (
            StateSpec((mixer.kernel_size - 1, channels), "model"),
            StateSpec((mixer.num_heads, mixer.head_dim, mixer.state_dim), "float32"),
        )
    if isinstance(mixer, LightningAttention):
        return (StateSpec((mixer.num_heads, mixer.head_dim, mixer.head_dim), "float32"),)
    if isinstance(mixer, GatedDeltaNet):
        channels = 2 * mixer.num_k_heads * mixer.k_dim + mixer.num_v_heads * mixer.v_dim
        return (
            StateSpec((mixer.kernel_size - 1, channels), "model"),
            StateSpec((mixer.num_v_heads, mixer.k_dim, mixer.v_dim), "float32"),
        )
    if isinstance(mixer, KimiDeltaAttention):
        return (
            StateSpec((mixer.kernel_size - 1, 3 * mixer.num_heads * mixer.head_dim), "model"),
            StateSpec((mixer.num_heads, mixer.head_dim, mixer.head_dim), "float32"),
        )
    return (StateSpec((mixer.kernel_size - 1, mixer.dim), "model"),)
