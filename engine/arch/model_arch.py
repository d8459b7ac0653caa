"""The model architecture: everything that the decoder needs besides the weights."""

from typing import Literal

import msgspec

from engine.arch.layer_spec import LayerSpec, Recurrent

__all__ = ["ModelArch"]


class ModelArch(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    vocab_size: int
    model_dim: int
    layers: tuple[LayerSpec, ...]
    norm_eps: float
    max_model_len: int  # tokens
    tied: bool = False  # the LM head is the embedding
    norm: Literal["rms", "layer"] = "rms"  # of the layers: RMSNorm, or LayerNorm without bias
    norm_offset: float = 0.0  # added to the checkpoint's norm weights
    embedding_scale: float = 1.0
    rounds_embedding_scale: bool = False  # the embedding scale, to the model's dtype
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

    @property
    def is_recurrent(self) -> bool:
        """Whether some layers have a state instead of cached tokens."""
        return any(isinstance(layer.mixer, Recurrent) for layer in self.layers)

    @property
    def num_layers(self) -> int:
        return len(self.layers)
