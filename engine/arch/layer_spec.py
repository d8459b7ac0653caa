"""Layer specs: what a decoder layer is, as data: its mixer, its feed-forward, its norms."""

from typing import Literal

import msgspec

from engine.arch.feed_forward_spec import Activation, FeedForward, MoE
from engine.arch.mixer_spec import Mixer

__all__ = [
    "AltUp",
    "LayerSpec",
    "NormedResidual",
    "Norms",
    "PerLayerEmbedding",
]

# Pre-norm, post-norm (before the residual is added), both, or both around the feed-forward alone; one norm whose output
# both mixer and feed-forward take, or one for each of them, of the same sum; or one before the only one of them
Norms = Literal["before", "after", "around", "around_ffn", "parallel", "parallel_apart", "single"]


class PerLayerEmbedding(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Each layer has an embedding of its own, which gates a projection of what comes out of the layer."""

    vocab_size: int  # later tokens have the first one's
    dim: int  # of a token in a layer
    activation: Activation = "gelu_tanh"  # of the gate


class AltUp(msgspec.Struct, frozen=True, kw_only=True):
    """Alternating updates: several residual streams; a layer computes with the first, and predicts the others."""

    num_streams: int
    scales_corrected: bool = True  # what the per-layer gate takes is multiplied by a learned scale of each dimension


class NormedResidual(msgspec.Struct, frozen=True):
    """What mixer and feed-forward take, after the norm, is also what their outputs are added to, each with a factor."""

    mixer_input: float = 1.0
    mixer_output: float = 1.0
    ffn_input: float = 1.0
    ffn_output: float = 1.0


class LayerSpec(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    mixer: Mixer | None
    feed_forward: FeedForward | None  # a layer has one of both, at least
    norms: Norms = "before"
    normed_residual: NormedResidual | None = None  # None: the residual stream goes by the norms
    shortcut: MoE | None = None  # takes what the feed-forward takes, and gives to the stream after the next layer
    laurel_rank: int = 0  # of a projection that is added to the mixer's output, with what the mixer takes; 0: none
    output_scale: bool = False  # the residual stream is multiplied by a learned number after the layer

    def __post_init__(self) -> None:
        if (self.mixer is None or self.feed_forward is None) != (self.norms == "single"):
            raise ValueError("a layer has a mixer and a feed-forward, or one of them and one norm")
