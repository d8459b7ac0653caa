"""What the families of the hub differ in: for each model_type, the flags of ModelArch that its config.json sets."""

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["HUB_FLAGS", "hub_windows"]


def _llama_flags(config: Mapping[str, Any]) -> dict[str, bool]:
    bias = config.get("attention_bias", False)
    return {"qkv_bias": bias, "out_bias": bias, "ffn_bias": config.get("mlp_bias", False)}


def _qwen3_flags(config: Mapping[str, Any]) -> dict[str, bool]:
    bias = config.get("attention_bias", False)
    return {"qkv_bias": bias, "out_bias": bias, "qk_norm": True}


HUB_FLAGS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, bool]]] = {
    "llama": _llama_flags,
    "mistral": lambda config: {},
    "phi3": lambda config: {},  # what it keeps in one matrix fused_weights.py takes apart
    "qwen2": lambda config: {"qkv_bias": True},
    "qwen3": _qwen3_flags,
}


def hub_windows(config: Mapping[str, Any]) -> tuple[int, ...]:
    num_layers: int = config["num_hidden_layers"]
    window: int = config.get("sliding_window") or 0
    if config["model_type"] in ("mistral", "phi3"):
        return (window,) * num_layers
    if not config.get("use_sliding_window"):
        return (0,) * num_layers
    kinds = config.get("layer_types")
    if kinds is None:  # the first layers see everything
        full = config["max_window_layers"]
        kinds = ["full_attention" if i < full else "sliding_attention" for i in range(num_layers)]
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
