"""Cache specs: what a layer keeps of the tokens that it has seen, as data."""

import msgspec

from engine.arch.layer_spec import LatentAttention, Mixer

__all__ = ["PageSpec", "page_spec"]


class PageSpec(msgspec.Struct, frozen=True):
    """A layer's page of one block: `num_tensors` (keys and values, or latents) of [G, P, D]."""

    num_tensors: int
    num_heads: int  # G
    dim: int  # D

    def num_elements(self, block_size: int) -> int:
        return self.num_tensors * self.num_heads * block_size * self.dim


def page_spec(mixer: Mixer) -> PageSpec:
    if isinstance(mixer, LatentAttention):
        return PageSpec(1, 1, mixer.kv_rank + mixer.rope_dim)
    return PageSpec(2, mixer.num_kv_heads, mixer.head_dim)
