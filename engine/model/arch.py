"""What a model is, in flags and sizes: all that the decoder needs to know besides the weights."""

from collections.abc import Callable, Mapping
from math import log
from typing import Any

import msgspec

from engine.errors import ModelError
from engine.model.rope import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling

__all__ = ["ModelArch", "arch_from_gguf", "arch_from_hub"]


class ModelArch(msgspec.Struct, frozen=True, kw_only=True):
    vocab_size: int
    model_dim: int
    ffn_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int  # first dimensions of a head that are rotated
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    norm_eps: float
    max_context_len: int  # tokens
    windows: tuple[int, ...]  # per layer, tokens that a query sees, itself included; 0 is no limit
    tied: bool = False  # the head is the embedding
    qkv_bias: bool = False
    out_bias: bool = False
    ffn_bias: bool = False
    qk_norm: bool = False  # RMS norm over each query and key head

    def __post_init__(self) -> None:
        for name in ("vocab_size", "model_dim", "ffn_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim"):
            if not isinstance(value := getattr(self, name), int) or value < 1:
                raise ValueError(f"{name} is {value!r}")
        if self.num_heads % self.num_kv_heads or self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            raise ValueError(
                f"heads {self.num_heads}/{self.num_kv_heads}, {self.rotary_dim} of {self.head_dim} rotated"
            )
        if len(self.windows) != self.num_layers:
            raise ValueError(f"{len(self.windows)} layer types for {self.num_layers} layers")


# -- config.json of the hub


def arch_from_hub(config: Mapping[str, Any]) -> ModelArch:
    """Reads a model's config.json. Raises ModelError for what the decoder does not do."""
    family = config.get("model_type")
    if not isinstance(family, str) or family not in HUB_FLAGS:
        raise ModelError(f"model type {family!r} is not supported; supported are {', '.join(HUB_FLAGS)}")
    if config.get("hidden_act", "silu") != "silu":
        raise ModelError(f"hidden_act {config['hidden_act']!r} is not supported; supported is silu")
    try:
        return _from_hub(config, HUB_FLAGS[family](config))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"config.json is not complete: {type(error).__name__} {error}") from error


def _from_hub(config: Mapping[str, Any], flags: dict[str, bool]) -> ModelArch:
    num_heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // num_heads
    # old configs have rope_theta at the top and the rest in rope_scaling, new ones all of it in rope_parameters
    rope = {
        "rope_theta": 10000.0,
        **config,
        **(config.get("rope_scaling") or {}),
        **(config.get("rope_parameters") or {}),
    }
    context_len = config["max_position_embeddings"]
    scaling = _hub_scaling(rope, context_len)
    return ModelArch(
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
        max_context_len=_scaled_context_len(context_len, scaling),
        windows=_hub_windows(config),
        tied=config.get("tie_word_embeddings", False),
        **flags,
    )


def _llama_flags(config: Mapping[str, Any]) -> dict[str, bool]:
    bias = config.get("attention_bias", False)
    return {"qkv_bias": bias, "out_bias": bias, "ffn_bias": config.get("mlp_bias", False)}


def _qwen3_flags(config: Mapping[str, Any]) -> dict[str, bool]:
    bias = config.get("attention_bias", False)
    return {"qkv_bias": bias, "out_bias": bias, "qk_norm": True}


HUB_FLAGS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, bool]]] = {
    "llama": _llama_flags,
    "mistral": lambda config: {},
    "qwen2": lambda config: {"qkv_bias": True},
    "qwen3": _qwen3_flags,
}


def _hub_windows(config: Mapping[str, Any]) -> tuple[int, ...]:
    num_layers: int = config["num_hidden_layers"]
    window: int = config.get("sliding_window") or 0
    if config["model_type"] == "mistral":
        return (window,) * num_layers
    if not config.get("use_sliding_window"):
        return (0,) * num_layers
    kinds = config.get("layer_types")
    if kinds is None:  # the first layers see everything
        full = config["max_window_layers"]
        kinds = ["full_attention" if i < full else "sliding_attention" for i in range(num_layers)]
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def _hub_scaling(rope: Mapping[str, Any], context_len: int) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(rope["factor"])
    original = rope.get("original_max_position_embeddings") or context_len
    if kind == "llama3":
        return Llama3Scaling(rope["factor"], original, rope["low_freq_factor"], rope["high_freq_factor"])
    if kind == "yarn":
        factor = rope.get("factor") or context_len / original
        return YarnScaling(
            factor,
            original,
            rope.get("beta_fast") or 32.0,
            rope.get("beta_slow") or 1.0,
            _yarn_amplitude(factor, rope),
            rope.get("truncate", True),
        )
    raise ModelError(f"rope type {kind!r} is not supported; supported are default, linear, llama3, yarn")


def _yarn_amplitude(factor: float, rope: Mapping[str, Any]) -> float:
    def grown(slope: float) -> float:
        return 0.1 * slope * log(factor) + 1.0 if factor > 1 else 1.0

    if (given := rope.get("attention_factor")) is not None:
        return float(given)
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return grown(rope["mscale"]) / grown(rope["mscale_all_dim"])
    return grown(1.0)


def _scaled_context_len(context_len: int, scaling: RopeScaling | None) -> int:
    match scaling:
        case LinearScaling():
            return int(context_len * scaling.factor)
        case YarnScaling():
            return max(context_len, int(scaling.original_context_len * scaling.factor))
        case _:
            return context_len


# -- metadata of a .gguf file

GGUF_FAMILIES = ("llama", "qwen2", "qwen3")  # Mistral and SmolLM2 files call themselves llama


def arch_from_gguf(pairs: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> ModelArch:
    """Reads a .gguf file's metadata; what it does not say follows from which tensors there are, by name and shape."""
    family = pairs.get("general.architecture")
    if family not in GGUF_FAMILIES:
        raise ModelError(f"architecture {family!r} is not supported; supported are {', '.join(GGUF_FAMILIES)}")
    sizes = {name.removeprefix(f"{family}."): value for name, value in pairs.items()}
    if sizes.get("expert_count"):
        raise ModelError("mixture-of-experts models are not supported")
    try:
        return _from_gguf(sizes, shapes)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelError(f"the .gguf file's metadata is not complete: {type(error).__name__} {error}") from error


def _from_gguf(sizes: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> ModelArch:
    num_heads = sizes["attention.head_count"]
    head_dim = sizes.get("attention.key_length") or sizes["embedding_length"] // num_heads
    scaling = _gguf_scaling(sizes)
    return ModelArch(
        vocab_size=shapes["token_embd.weight"][0],  # may be padded beyond the tokenizer's tokens
        model_dim=sizes["embedding_length"],
        ffn_dim=sizes["feed_forward_length"],
        num_layers=sizes["block_count"],
        num_heads=num_heads,
        num_kv_heads=sizes.get("attention.head_count_kv") or num_heads,
        head_dim=head_dim,
        rotary_dim=sizes.get("rope.dimension_count") or head_dim,
        rope_theta=sizes.get("rope.freq_base", 10000.0),
        rope_scaling=scaling,
        norm_eps=sizes["attention.layer_norm_rms_epsilon"],
        max_context_len=_scaled_context_len(sizes["context_length"], scaling),
        windows=(sizes.get("attention.sliding_window", 0),) * sizes["block_count"],
        tied="output.weight" not in shapes,
        qkv_bias="blk.0.attn_q.bias" in shapes,
        out_bias="blk.0.attn_output.bias" in shapes,
        ffn_bias="blk.0.ffn_down.bias" in shapes,
        qk_norm="blk.0.attn_q_norm.weight" in shapes,
    )


def _gguf_scaling(sizes: Mapping[str, Any]) -> RopeScaling | None:
    kind, factor = sizes.get("rope.scaling.type", "none"), sizes.get("rope.scaling.factor", 0.0)
    if kind == "none" or not factor:
        return None
    if kind == "linear":
        return LinearScaling(factor)
    if kind == "yarn":
        original = sizes.get("rope.scaling.original_context_length") or sizes["context_length"]
        amplitude = sizes.get("rope.scaling.attn_factor", 1.0) * _yarn_amplitude(factor, {})
        return YarnScaling(factor, original, 32.0, 1.0, amplitude)
    raise ModelError(f"rope scaling {kind!r} is not supported; supported are none, linear, yarn")
