"""What the families of the hub differ in: for each model_type, the flags of ModelArch that its config.json sets."""

from collections.abc import Callable, Mapping
from typing import Any

from engine.model.rope_config import hub_window_rope

__all__ = ["HUB_DEFAULTS", "HUB_FLAGS", "Flags", "hub_windows"]

Flags = dict[str, Any]  # fields of ModelArch


def _llama_flags(config: Mapping[str, Any]) -> Flags:
    bias = config.get("attention_bias", False)
    return {"qkv_bias": bias, "out_bias": bias, "ffn_bias": config.get("mlp_bias", False)}


def _qwen3_flags(config: Mapping[str, Any]) -> Flags:
    bias = config.get("attention_bias", False)
    return {"qkv_bias": bias, "out_bias": bias, "qk_norm": True}


def _olmo2_flags(config: Mapping[str, Any]) -> Flags:
    bias = config.get("attention_bias", False)
    return {"qkv_bias": bias, "out_bias": bias, "qk_norm": True, "whole_qk_norm": True, "norms": "after"}


def _olmo3_flags(config: Mapping[str, Any]) -> Flags:
    return {**_olmo2_flags(config), "window_rope": hub_window_rope(config, config["rope_theta"])}


# What a config.json may leave out, because transformers' class of the family knows it
HUB_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "olmo3": {"rope_theta": 500_000.0, "sliding_window": 4096},
}

HUB_FLAGS: Mapping[str, Callable[[Mapping[str, Any]], Flags]] = {
    "llama": _llama_flags,
    "mistral": lambda config: {},
    "phi3": lambda config: {},  # what it keeps in one matrix fused_weights.py takes apart
    "qwen2": lambda config: {"qkv_bias": True},
    "qwen3": _qwen3_flags,
    "olmo2": _olmo2_flags,
    "olmo3": _olmo3_flags,
}


WINDOW_PERIODS = {"olmo3": 4}  # the last of so many layers sees everything


def hub_windows(config: Mapping[str, Any]) -> tuple[int, ...]:
    num_layers: int = config["num_hidden_layers"]
    window: int = config.get("sliding_window") or 0
    family = config["model_type"]
    if family in ("mistral", "phi3"):
        return (window,) * num_layers
    if family not in WINDOW_PERIODS and not config.get("use_sliding_window"):
        return (0,) * num_layers
    if (kinds := config.get("layer_types")) is not None:
        return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    if period := WINDOW_PERIODS.get(family):
        return tuple(window if (layer + 1) % period else 0 for layer in range(num_layers))
    return tuple(0 if layer < config["max_window_layers"] else window for layer in range(num_layers))
