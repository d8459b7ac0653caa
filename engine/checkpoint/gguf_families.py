"""Model families of GGUF files: the flags of ModelArch that follow from a family's metadata, and tensor names.

Much is implied by the family and not in the file: which layers have sliding windows, how embeddings are scaled.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from engine.checkpoint.hub_families import Flags
from engine.checkpoint.rope import Rope, YarnScaling
from engine.checkpoint.rope_config import gguf_scaling
from engine.errors import ModelError

__all__ = ["GGUF_FLAGS", "NEIGHBOURS", "OTHER_NAMES", "gguf_windows"]

# Families whose q and k rows are permuted for interleaved RoPE, where the hub's are half-rotated (NeoX)
NEIGHBOURS = ("llama", "smollm3", "granite")

# The family's own tensor names -> the hub's
OTHER_NAMES = {
    "phi3": {"ffn_up": "mlp.gate_up_proj"},
    "glm4": {"ffn_up": "mlp.gate_up_proj", "ffn_norm": "pre_feedforward_layernorm"},
    "gemma2": {"ffn_norm": "pre_feedforward_layernorm"},
    "gemma3": {"ffn_norm": "pre_feedforward_layernorm"},
}


def _olmo2_flags(sizes: Mapping[str, Any]) -> Flags:
    flags: Flags = {"whole_qk_norm": True, "norms": "after"}
    if sizes.get("attention.sliding_window"):  # OLMo 3: sliding-window layers have no RoPE scaling
        flags["window_rope"] = Rope(sizes["rope.freq_base"])
    return flags


def _gemma1_flags(sizes: Mapping[str, Any]) -> Flags:
    scale = sizes["embedding_length"] ** 0.5
    return {"activation": "gelu_tanh", "embedding_scale": scale, "rounds_embedding_scale": True}


def _gemma_flags(sizes: Mapping[str, Any], largest: int) -> Flags:
    """`largest`: the number of layers of the family's largest model, whose attention scale is another."""
    flags: Flags = {**_gemma1_flags(sizes), "norms": "around"}
    if sizes["block_count"] == largest:
        flags["attention_scale"] = (sizes["embedding_length"] // sizes["attention.head_count"]) ** -0.5
    return flags


def _gemma2_flags(sizes: Mapping[str, Any]) -> Flags:
    return {
        **_gemma_flags(sizes, 46),
        "attention_cap": sizes.get("attn_logit_softcapping", 50.0),
        "logit_cap": sizes.get("final_logit_softcapping", 30.0),
    }


def _gemma3_flags(sizes: Mapping[str, Any]) -> Flags:
    return {
        **_gemma_flags(sizes, 62),
        "logit_cap": sizes.get("final_logit_softcapping", 0.0),
        "rope_theta": sizes.get("rope.freq_base", 1_000_000.0),
        "window_rope": Rope(sizes.get("rope.freq_base_swa", 10_000.0)),
        "max_model_len": sizes["context_length"],  # after RoPE scaling
    }


def _granite_flags(sizes: Mapping[str, Any]) -> Flags:
    return {
        "embedding_scale": sizes.get("embedding_scale", 1.0),
        "residual_scale": sizes.get("residual_scale", 1.0),
        "attention_scale": sizes.get("attention.scale"),
        "logit_scale": 1 / sizes["logit_scale"],
    }


def _experts(sizes: Mapping[str, Any], renormalises: bool) -> Flags:
    for key in ("expert_shared_count", "leading_dense_block_count"):
        if sizes.get(key):
            raise ModelError(f"{key} is {sizes[key]}; experts for all tokens and layers without are not supported")
    return {
        "num_experts": sizes["expert_count"],
        "experts_per_token": sizes["expert_used_count"],
        "renormalizes_experts": renormalises,
        "ffn_dim": sizes.get("expert_feed_forward_length") or sizes["feed_forward_length"],
    }


def _exaone4_flags(sizes: Mapping[str, Any]) -> Flags:
    flags: Flags = {"norms": "after"}
    windows = gguf_windows("exaone4", sizes)
    if any(windows):  # then full-attention layers are NoPE layers
        flags["nope_layers"] = tuple(layer for layer, window in enumerate(windows) if not window)
    return flags


def _gpt_oss_flags(sizes: Mapping[str, Any]) -> Flags:
    scaling = gguf_scaling(sizes, ())
    if isinstance(scaling, YarnScaling):
        scaling = msgspec.structs.replace(scaling, whole_dims=False)
    flags = {"rope_scaling": scaling, "sinks": True, "activation": "clamped", "expert_bias": True}
    return {**_experts(sizes, True), **flags}


GGUF_FLAGS: Mapping[str, Callable[[Mapping[str, Any]], Flags]] = {
    # Mistral, Mixtral and SmolLM2 files too
    "llama": lambda sizes: _experts(sizes, True) if sizes.get("expert_count") else {},
    "qwen2": lambda sizes: {},
    "qwen3": lambda sizes: {},
    "qwen3moe": lambda sizes: _experts(sizes, True),
    "olmoe": lambda sizes: {"whole_qk_norm": True, **_experts(sizes, False)},
    "gpt-oss": _gpt_oss_flags,
    "phi3": lambda sizes: {},
    "exaone4": _exaone4_flags,
    "glm4": lambda sizes: {"norms": "around", "interleaved_rope": True},
    "olmo2": _olmo2_flags,  # OLMo 3 files too
    "gemma": _gemma1_flags,
    "gemma2": _gemma2_flags,
    "gemma3": _gemma3_flags,
    "smollm3": lambda sizes: {"nope_layers": tuple(range(3, sizes["block_count"], 4))},
    "granite": _granite_flags,
}

# Every n-th layer has full attention; 0: none has. The file's metadata override it
WINDOW_PERIODS = {"olmo2": 4, "exaone4": 4, "gpt-oss": 2, "gemma2": 2, "gemma3": 6}


def gguf_windows(family: str, sizes: Mapping[str, Any]) -> tuple[int, ...]:
    window = sizes.get("attention.sliding_window", 4096 if family == "gemma2" else 0)
    pattern = sizes.get("attention.sliding_window_pattern", WINDOW_PERIODS.get(family, 0))
    if isinstance(pattern, int):
        pattern = [not pattern or (layer + 1) % pattern for layer in range(sizes["block_count"])]
    return tuple(window if windowed else 0 for windowed in pattern)
