"""Mixer specs: what mixes a token with those before it, as data."""

from typing import Literal

import msgspec

from engine.arch.rope import Rope
from engine.arch.sizes import check_sizes

__all__ = [
    "GatedDeltaNet",
    "KimiDeltaAttention",
    "LatentAttention",
    "LightningAttention",
    "Mamba2",
    "Mixer",
    "OutputGate",
    "ParallelHeads",
    "QueryScaling",
    "Recurrent",
    "SelfAttention",
    "ShortConv",
    "TokenIndexer",
    "rope_of",
    "source_layer",
]


class QueryScaling(msgspec.Struct, frozen=True):
    """Queries grow with their position: 1 + beta * log(1 + floor((position + offset) / period)), as Llama 4 has it."""

    beta: float
    period: int  # tokens
    offset: int = 0


class OutputGate(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """A function of another projection of an attention layer's input."""

    function: Literal["sigmoid", "softplus"] = "sigmoid"
    per_head: bool = False  # one number for each head, not for each of its dimensions


class SelfAttention(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Softmax attention over cached keys and values: multi-head, grouped-query or multi-query."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_dim: int = 0  # of a value head, at most that of a key head, in whose size it is cached; 0: the same
    rope: Rope | None  # None: a NoPE layer
    sliding_window: int = 0  # tokens that a query sees, itself included; 0: no limit
    attention_chunk: int = 0  # a query sees the tokens of its own chunk of so many alone; 0: no chunks
    scale: float | None = None  # multiplies query-key products; None: head_dim ** -0.5
    soft_cap: float = 0.0  # of scores; 0: none
    qkv_clip: float = 0.0  # queries, keys and values are held between this and its negative; 0: not
    qkv_bias: bool = False
    out_bias: bool = False
    # RMS norm over each query and key head, over all heads together, over each head without weights, or over each
    # head after the rotary embedding
    qk_norm: Literal["", "head", "whole", "weightless", "rotated"] = ""
    sinks: bool = False  # attention sinks: a learned score of each head, in the softmax only
    query_scaling: QueryScaling | None = None
    gate: OutputGate | None = None  # multiplies the output
    v_norm: bool = False  # RMS norm over each value head, without weights
    values_are_keys: bool = False  # as they were projected, before norm and rotary embedding
    kv_from: int | None = None  # the layer whose keys and values are read; None: its own

    def __post_init__(self) -> None:
        check_sizes(self, "num_heads", "num_kv_heads", "head_dim")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"heads {self.num_heads}/{self.num_kv_heads}")
        are_plain = not (self.values_are_keys or self.v_norm or self.kv_from is not None)
        if self.v_dim > (self.head_dim if are_plain else 0):
            raise ValueError(f"values of {self.v_dim} dimensions beside keys of {self.head_dim}")
        if self.rope is not None and self.rope.dim > self.head_dim:
            raise ValueError(f"{self.rope.dim} of {self.head_dim} dimensions are rotated")


class TokenIndexer(msgspec.Struct, frozen=True, kw_only=True):
    """Sparse attention (DSA): small heads of their own score all tokens, and a query attends to the best."""

    num_heads: int
    head_dim: int  # of the index key that is cached of each token
    top_k: int  # tokens that a query attends to
    interleaved_rope: bool = False  # the checkpoint's query and key rows are for interleaved RoPE

    def __post_init__(self) -> None:
        check_sizes(self, "num_heads", "head_dim", "top_k")


class LatentAttention(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Multi-head latent attention (MLA): one row per token is cached for all heads, a latent and a rotated key."""

    num_heads: int
    q_rank: int  # of the queries' low-rank projection; 0: it is one full matrix
    kv_rank: int  # dimensions of the latent
    nope_dim: int  # of a query head, those that meet the latent
    rope_dim: int  # and those that meet the rotated key
    v_dim: int  # of a head's output
    rope: Rope | None  # None: a NoPE layer, whose key beside the latent is not rotated
    scale: float | None = None  # multiplies query-key products; None: (nope_dim + rope_dim) ** -0.5
    latent_eps: float = 1e-6  # of the norms of the latent and of the low-rank query
    latent_scale: float = 1.0  # multiplies the latent after its norm
    bias: bool = False  # of the down-projections and the output
    query_scaling: QueryScaling | None = None
    indexer: TokenIndexer | None = None  # None: a query attends to all tokens
    index_from: int | None = None  # the layer whose indexer chooses the tokens; None: its own
    gate: OutputGate | None = None  # multiplies the heads' outputs, each by one number

    def __post_init__(self) -> None:
        check_sizes(self, "num_heads", "kv_rank", "nope_dim", "rope_dim", "v_dim")
        if self.gate is not None and not self.gate.per_head:
            raise ValueError("latent attention has gates of heads, not of their dimensions")
        if self.indexer is not None and (not self.q_rank or self.rope is None or self.rope.dim > self.indexer.head_dim):
            raise ValueError("an indexer needs a low-rank query and a rotary embedding that its heads have room for")


class GatedDeltaNet(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Linear attention by the gated delta rule; its state is a matrix of each value head."""

    num_k_heads: int  # of queries and keys
    num_v_heads: int  # a multiple
    k_dim: int  # of a head
    v_dim: int
    kernel_size: int  # of the convolution before
    beta_scale: float = 1.0  # 2: what is written may turn a direction of the state around
    norm_eps: float | None = None  # of the output's norm; None: the model's
    convs_apart: bool = False  # the checkpoint has a convolution of queries, one of keys and one of values

    def __post_init__(self) -> None:
        check_sizes(self, "num_k_heads", "num_v_heads", "k_dim", "v_dim", "kernel_size")
        if self.num_v_heads % self.num_k_heads:
            raise ValueError(f"heads {self.num_v_heads}/{self.num_k_heads}")


class KimiDeltaAttention(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Linear attention by the gated delta rule with a decay of each key channel (KDA); its state is a matrix a head."""

    num_heads: int
    head_dim: int  # of queries, keys and values
    kernel_size: int  # of the convolutions before
    gate_rank: int = 0  # of the low-rank projections to the decays and to the output's gate; 0: they are full matrices
    log_decay_bound: float | None = None  # a decay's logarithm is this times a sigmoid; None: minus a softplus

    def __post_init__(self) -> None:
        check_sizes(self, "num_heads", "head_dim", "kernel_size")


class Mamba2(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """A selective state space model; its state is a matrix of each head."""

    num_heads: int
    head_dim: int
    num_groups: int  # of what goes into the state and comes out of it; the gated norm is over each group
    state_dim: int
    kernel_size: int  # of the convolution before
    conv_bias: bool = True
    bias: bool = False  # of the projections
    step_limit: tuple[float, float] = (0.0, float("inf"))
    norm: Literal["after_gate", "before_gate", ""] = "after_gate"  # RMS norm of the output; "": none

    def __post_init__(self) -> None:
        check_sizes(self, "num_heads", "head_dim", "num_groups", "state_dim", "kernel_size")
        if self.num_heads % self.num_groups:
            raise ValueError(f"{self.num_heads} heads in {self.num_groups} groups")


class LightningAttention(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Linear attention whose state, a matrix of each head, decays by a rate that each head has."""

    num_heads: int
    head_dim: int
    decay: float  # of the layer: multiplies the heads' rates, 2 ** (-8 h / num_heads) for h = 1, 2, ...
    norm_eps: float = 1e-6  # of the norm of all heads' outputs together

    def __post_init__(self) -> None:
        check_sizes(self, "num_heads", "head_dim")


class ShortConv(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """A gated causal convolution over a few tokens; its state is the last of these."""

    dim: int  # channels
    kernel_size: int  # tokens
    bias: bool = False

    def __post_init__(self) -> None:
        check_sizes(self, "dim", "kernel_size")


class ParallelHeads(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Attention and Mamba-2 side by side: both take the layer's input, and their outputs are added up."""

    attention: SelfAttention
    mamba: Mamba2


# mixers with a state of fixed size
Recurrent = GatedDeltaNet | KimiDeltaAttention | Mamba2 | LightningAttention | ShortConv | ParallelHeads
Mixer = SelfAttention | LatentAttention | Recurrent


def source_layer(mixer: Mixer | None) -> int | None:
    """The layer whose keys and values, or whose choice of tokens, a mixer reads; None: it has its own."""
    if isinstance(mixer, SelfAttention):
        return mixer.kv_from
    return mixer.index_from if isinstance(mixer, LatentAttention) else None


def rope_of(mixer: Mixer | None) -> Rope | None:
    if isinstance(mixer, ParallelHeads):
        return mixer.attention.rope
    return mixer.rope if isinstance(mixer, SelfAttention | LatentAttention) else None
