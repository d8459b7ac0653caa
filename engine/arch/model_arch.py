"""The model architecture: everything that the decoder needs besides the weights."""

from typing import Literal

import msgspec

from engine.arch.layer_spec import AltUp, LayerSpec, PerLayerEmbedding
from engine.arch.mixer_spec import LatentAttention, Recurrent, SelfAttention

__all__ = ["ModelArch"]


class ModelArch(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    vocab_size: int
    model_dim: int
    layers: tuple[LayerSpec, ...]
    norm_eps: float
    max_model_len: int  # tokens
    tied: bool = False  # the LM head is the embedding
    head_bias: bool = False  # of the LM head
    norm: Literal["rms", "layer"] = "rms"  # of the layers: RMSNorm or LayerNorm
    # what of the norms the checkpoint has; biases are of LayerNorms alone
    norm_parameters: Literal["", "weight", "weight and bias"] = "weight"
    norm_offset: float = 0.0  # added to the checkpoint's norm weights
    embedding_scale: float = 1.0
    normed_embedding: bool = False  # the residual stream begins with the norm of the embedding, without weights
    rounds_embedding_scale: bool = False  # the embedding scale, to the model's dtype
    per_layer_embedding: PerLayerEmbedding | None = None
    altup: AltUp | None = None  # None: there is one residual stream
    residual_scale: float = 1.0  # multiplies what attention and the feed-forward block add
    logit_scale: float = 1.0
    logit_cap: float = 0.0  # soft cap of logits; 0: none
    # factors of matrices, by their names within a layer, where the model scales what goes in or comes out (µP)
    weight_scales: tuple[tuple[str, float], ...] = ()
    interleaved_rope: bool = False  # the checkpoint's query and key rows are for interleaved RoPE: interleaved_rows.py

    def __post_init__(self) -> None:
        for name in ("vocab_size", "model_dim"):
            if not isinstance(value := getattr(self, name), int) or value < 1:
                raise ValueError(f"{name} is {value!r}")
        if not self.layers:
            raise ValueError("there are no layers")
        if self.norm != "layer" and self.norm_parameters == "weight and bias":
            raise ValueError("RMSNorm has no bias")
        for index in range(len(self.layers)):
            self._check_kv_layer(index)
            self._check_index_layer(index)

    def _check_kv_layer(self, index: int) -> None:
        mixer = self.layers[index].mixer
        if not isinstance(mixer, SelfAttention) or mixer.kv_from is None:
            return
        source = self.layers[mixer.kv_from].mixer
        if not isinstance(source, SelfAttention) or source.kv_from is not None or mixer.kv_from >= index:
            raise ValueError(f"layer {index} reads keys and values of {mixer.kv_from}, which has none before it")
        names = ("num_kv_heads", "head_dim", "sliding_window", "attention_chunk")
        if other := [name for name in names if getattr(mixer, name) != getattr(source, name)]:
            raise ValueError(f"layer {index} reads keys and values of {mixer.kv_from} and has another {other[0]}")

    def _check_index_layer(self, index: int) -> None:
        mixer = self.layers[index].mixer
        if not isinstance(mixer, LatentAttention) or mixer.index_from is None:
            return
        source = self.layers[mixer.index_from].mixer if mixer.index_from < index else None
        own = isinstance(source, LatentAttention) and source.index_from is None and source.indexer == mixer.indexer
        if mixer.indexer is None or not own:
            raise ValueError(f"layer {index} takes the tokens that layer {mixer.index_from} chooses, which does not")

    def kv_layer(self, index: int) -> int:
        """The layer whose keys and values layer `index` reads: itself, unless its spec names another."""
        mixer = self.layers[index].mixer
        return index if not isinstance(mixer, SelfAttention) or mixer.kv_from is None else mixer.kv_from

    @property
    def is_recurrent(self) -> bool:
        """Whether some layers have a state instead of cached tokens."""
        return any(isinstance(layer.mixer, Recurrent) for layer in self.layers)

    @property
    def num_layers(self) -> int:
        return len(self.layers)
