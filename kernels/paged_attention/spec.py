"""What paged attention is given besides queries and cache: rules that never change, and the layout of one batch."""

from dataclasses import dataclass

from torch import Tensor

from kernels.paged_attention.prefixes import SharedPrefixes

__all__ = ["AttentionLayout", "AttentionSpec"]


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Rules of a layer, bound at construction.

    scale        factor on q @ k: what comes out is a score
    window       a query sees itself and the window - 1 keys before it; 0 is no limit
    chunk        a query sees the keys of its own chunk of so many positions alone; 0 is no chunks; not with a window
    soft_cap     scores become soft_cap * tanh(score / soft_cap); 0 leaves them
    sinks_H      [H] fp32   a score of each head that has no key: part of the softmax's denominator alone
    k_scale_G    [G] fp32   factor on the keys of a KV head, as write_kv has divided by it; None is 1
    v_scale_G    [G] fp32   the same for values
    """

    scale: float
    window: int = 0
    soft_cap: float = 0.0
    sinks_H: Tensor | None = None
    k_scale_G: Tensor | None = None
    v_scale_G: Tensor | None = None
    chunk: int = 0

    @property
    def reach(self) -> int:
        """As the compiled kernels take it: the window, or the chunk with a minus; 0 is no limit."""
        return -self.chunk or self.window


@dataclass(frozen=True, slots=True)
class AttentionLayout:
    """Which rows and blocks are whose in one step.

    query_starts      [S + 1] int32  rows [query_starts[s], query_starts[s + 1]) are sequence s; may be none
    seq_lens_S        [S] int32      keys of sequence s, this step's included; its queries are the last of them
    block_table_SW    [S, W] int32   blocks in order; entries past the sequence's last block are never read, nor those
                                     before the first one that its queries see
    prefixes                         keys that may be read once for several sequences: changes nothing but rounding
    """

    query_starts: Tensor
    seq_lens_S: Tensor
    block_table_SW: Tensor
    prefixes: SharedPrefixes | None = None
