"""The model architecture: everything that the decoder needs besides the weights, in flags and sizes."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from engine.checkpoint.hub_families import HUB_DEFAULTS, HUB_FLAGS, TEXT_PARTS, Flags, hub_windows
from engine.checkpoint.rope import Rope, RopeScaling
from engine.checkpoint.rope_config import hub_rope, hub_scaling, scaled_context_len
from engine.errors import ModelError

__all__ = ["ModelArch", "Norms", "arch_from_hub"]

# Pre-norm, post-norm (before the residual is added), or both
Norms = Literal["before", "after", "around"]
Activation = Literal["silu", "gelu_tanh", "clamped"]


class ModelArch(msgspec.Struct, frozen=True, kw_only=True):
    vocab_size: int
    model_dim: int
    ffn_dim: int  # inner dimensions of the feed-forward block, or of each of its experts
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int  # the first dimensions of a head, which are rotated
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    window_rope: Rope | None = None  # of sliding-window layers; None: the same
    nope_layers: tuple[int, ...] = ()  # layers without rotary embedding
    norm_eps: float
    max_model_len: int  # tokens
    sliding_windows: tuple[int, ...]  # per layer, tokens that a query sees, itself included; 0 is no limit
    tied: bool = False  # the LM head is the embedding
    qkv_bias: bool = False
    out_bias: bool = False
    ffn_bias: bool = False
    qk_norm: bool = False  # RMS norm over each query and key head
    whole_qk_norm: bool = False  # the norm is over all query heads together, and over all key heads
    norms: Norms = "before"
    norm_offset: float = 0.0  # added to the checkpoint's norm weights
    activation: Activation = "silu"
    embedding_scale: float = 1.0
    rounds_embedding_scale: bool = False  # the embedding scale, to the model's dtype
    residual_scale: float = 1.0  # multiplies what attention and the feed-forward block add
    logit_scale: float = 1.0
    attention_scale: float | None = None  # multiplies query-key products; None: head_dim ** -0.5
    attention_cap: float = 0.0  # soft cap of scores; 0: none
    logit_cap: float = 0.0
    num_experts: int = 0  # 0: a dense feed-forward block
    experts_per_token: int = 0
    renormalizes_experts: bool = False  # the chosen experts' weights are scaled to add up to 1
    expert_bias: bool = False  # the experts and the router have biases
    stacked_experts: bool = False  # the checkpoint has all experts of a layer in one tensor: stacked_experts.py
    interleaved_rope: bool = False  # the checkpoint's q_proj and k_proj are for interleaved RoPE: interleaved_rows.py
    sinks: bool = False  # attention sinks: a learned score of each head, in the softmax only

    def __post_init__(self) -> None:
        for name in ("vocab_size", "model_dim", "ffn_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim"):
            if not isinstance(value := getattr(self, name), int) or value < 1:
                raise ValueError(f"{name} is {value!r}")
        if self.num_heads % self.num_kv_heads or self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            raise ValueError(
                f"heads {self.num_heads}/{self.num_kv_heads}, {self.rotary_dim} of {self.head_dim} rotated"
            )
        if self.num_experts and not 0 < self.experts_per_token <= self.num_experts:
            raise ValueError(f"{self.experts_per_token} of {self.num_experts} experts are taken")
        if len(self.sliding_windows) != self.num_layers:
            raise ValueError(f"{len(self.sliding_windows)} layer types for {self.num_layers} layers")


# -- config.json of the hub


def arch_from_hub(config: Mapping[str, Any]) -> ModelArch:
    """Reads a model's config.json. Raises ModelError for what the decoder does not support."""
    family = config.get("model_type")
    if not isinstance(family, str) or family not in {*HUB_FLAGS, *TEXT_PARTS}:
        raise ModelError(
            f"model type {family!r} is not supported; supported are {', '.join((*HUB_FLAGS, *TEXT_PARTS))}"
        )
    try:
        if family in TEXT_PARTS:
            return arch_from_hub({**config["text_config"], "model_type": TEXT_PARTS[family]})
        config = {**HUB_DEFAULTS.get(family, {}), **config}
        flags = HUB_FLAGS[family](config)
        return _from_hub(config, flags if "activation" in flags else {**flags, "activation": _activation(config)})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"config.json is not complete: {type(error).__name__} {error}") from error


def _activation(config: Mapping[str, Any]) -> Activation:
    key = "hidden_activation" if config.get("hidden_activation") else "hidden_act"
    match name := config.get(key, "silu"):
        case "silu":
            return "silu"
        case "gelu_pytorch_tanh":
            return "gelu_tanh"
    raise ModelError(f"{key} {name!r} is not supported; supported are silu, gelu_pytorch_tanh")


def _from_hub(config: Mapping[str, Any], flags: Flags) -> ModelArch:
    num_heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // num_heads
    rope = hub_rope(config)
    context_len = config["max_position_embeddings"]
    scaling = hub_scaling(rope, context_len)
    fields = dict(
        vocab_size=config["vocab_size"],
        model_dim=config["hidden_size"],
        ffn_dim=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=num_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_heads,
        head_dim=head_dim,
        rotary_dim=int(head_dim * rope.get("partial_rotary_factor", 1.0)),
        rope_theta=float(rope["rope_theta"]),
        rope_scaling=scaling,
        norm_eps=config.get("rms_norm_eps", 1e-6),
        max_model_len=scaled_context_len(context_len, scaling),
        sliding_windows=hub_windows(config),
        tied=config.get("tie_word_embeddings", False),
    )
    return ModelArch(**{**fields, **flags})
