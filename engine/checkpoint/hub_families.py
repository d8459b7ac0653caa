"""Model families of the Hugging Face Hub: for each model_type, the flags of ModelArch that config.json sets."""

from collections.abc import Callable, Mapping
from typing import Any

from engine.checkpoint.rope_config import hub_window_rope
from engine.errors import ModelError

__all__ = ["HUB_DEFAULTS", "HUB_FLAGS", "TEXT_PARTS", "Flags", "hub_windows"]

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


def _gemma_flags(config: Mapping[str, Any]) -> Flags:
    return {
        "norm_offset": 1.0,
        "embedding_scale": config["hidden_size"] ** 0.5,
        "rounds_embedding_scale": True,
    }


def _gemma2_flags(config: Mapping[str, Any]) -> Flags:
    if config.get("use_bidirectional_attention"):
        raise ModelError("use_bidirectional_attention is not supported: such a model embeds texts, it does not chat")
    bias = config.get("attention_bias", False)
    return {
        "qkv_bias": bias,
        "out_bias": bias,
        **_gemma_flags(config),
        "norms": "around",
        "attention_scale": config["query_pre_attn_scalar"] ** -0.5,
        "attention_cap": config.get("attn_logit_softcapping") or 0.0,
        "logit_cap": config.get("final_logit_softcapping") or 0.0,
    }


def _gemma3_flags(config: Mapping[str, Any]) -> Flags:
    return {
        **_gemma2_flags(config),
        "attention_cap": 0.0,  # transformers has the key but does not read it
        "qk_norm": True,
        "window_rope": hub_window_rope(config, config["rope_local_base_freq"]),
        "max_model_len": config["max_position_embeddings"],  # after RoPE scaling
    }


def _smollm3_flags(config: Mapping[str, Any]) -> Flags:
    rotates = config.get("no_rope_layers")
    if rotates is None:
        period = config["no_rope_layer_interval"]
        rotates = [(layer + 1) % period for layer in range(config["num_hidden_layers"])]
    nope_layers = tuple(layer for layer in range(config["num_hidden_layers"]) if not rotates[layer])
    return {**_llama_flags(config), "nope_layers": nope_layers}


def _granite_flags(config: Mapping[str, Any]) -> Flags:
    return {
        **_llama_flags(config),
        "embedding_scale": config["embedding_multiplier"],
        "residual_scale": config["residual_multiplier"],
        "attention_scale": config["attention_multiplier"],
        "logit_scale": 1 / config["logits_scaling"],
    }


def _exaone4_flags(config: Mapping[str, Any]) -> Flags:
    flags: Flags = {"qk_norm": True, "norms": "after"}
    if config.get("sliding_window"):  # then full-attention layers are NoPE layers
        flags["nope_layers"] = tuple(layer for layer, window in enumerate(hub_windows(config)) if not window)
    return flags


def _experts(config: Mapping[str, Any], renormalises: bool) -> Flags:
    return {
        "num_experts": config.get("num_local_experts") or config["num_experts"],
        "experts_per_token": config["num_experts_per_tok"],
        "renormalizes_experts": renormalises,
    }


def _qwen3_moe_flags(config: Mapping[str, Any]) -> Flags:
    if config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1:
        raise ModelError("mlp_only_layers and decoder_sparse_step are not supported: every layer must have experts")
    experts = _experts(config, config.get("norm_topk_prob", False))
    return {**_qwen3_flags(config), **experts, "ffn_dim": config["moe_intermediate_size"]}


def _olmoe_flags(config: Mapping[str, Any]) -> Flags:
    if config.get("clip_qkv") is not None:
        raise ModelError("clip_qkv is not supported; it must be null")
    return {**_olmo2_flags(config), "norms": "before", **_experts(config, config.get("norm_topk_prob", False))}


def _glm_flags(config: Mapping[str, Any]) -> Flags:
    return {"qkv_bias": config["attention_bias"], "interleaved_rope": True}


def _gpt_oss_flags(config: Mapping[str, Any]) -> Flags:
    for key, known in (("swiglu_limit", 7.0), ("swiglu_alpha", 1.702)):
        if config.get(key, known) != known:
            raise ModelError(f"{key} {config[key]} is not supported; supported is {known}")
    bias = config["attention_bias"]
    return {
        **_experts(config, True),
        "qkv_bias": bias,
        "out_bias": bias,
        "sinks": True,
        "activation": "clamped",
        "expert_bias": True,
        "stacked_experts": True,
    }


GEMMA_DEFAULTS = {
    "hidden_activation": "gelu_pytorch_tanh",
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}

GLM_DEFAULTS = {"attention_bias": True, "head_dim": 128, "num_key_value_heads": 2, "partial_rotary_factor": 0.5}

# Defaults of transformers' config classes, which a config.json may leave out
HUB_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "olmo3": {"rope_theta": 500_000.0, "sliding_window": 4096},
    "gemma": {"head_dim": 256, "tie_word_embeddings": True},
    "gemma2": {
        **GEMMA_DEFAULTS,
        "max_position_embeddings": 8192,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "glm": GLM_DEFAULTS,
    "glm4": GLM_DEFAULTS,
    "gpt_oss": {
        "num_key_value_heads": 8,
        "head_dim": 64,
        "sliding_window": 128,
        "attention_bias": True,
        "rope_theta": 150_000.0,
        "rms_norm_eps": 1e-5,
    },
    "smollm3": {"no_rope_layer_interval": 4, "rope_theta": 2_000_000.0, "tie_word_embeddings": True},
    "granite": dict.fromkeys(
        ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"), 1.0
    ),
    "gemma3_text": {
        **GEMMA_DEFAULTS,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
    },
}

HUB_FLAGS: Mapping[str, Callable[[Mapping[str, Any]], Flags]] = {
    "llama": _llama_flags,
    "mistral": lambda config: {},
    "ministral": lambda config: {},
    "phi3": lambda config: {},  # its fused matrices: fused_weights.py
    "qwen2": lambda config: {"qkv_bias": True},
    "qwen3": _qwen3_flags,
    "olmo2": _olmo2_flags,
    "olmo3": _olmo3_flags,
    "qwen3_moe": _qwen3_moe_flags,
    "mixtral": lambda config: _experts(config, True),
    "olmoe": _olmoe_flags,
    "gpt_oss": _gpt_oss_flags,
    "glm": _glm_flags,
    "glm4": lambda config: {**_glm_flags(config), "norms": "around"},
    "smollm3": _smollm3_flags,
    "granite": _granite_flags,
    "exaone4": _exaone4_flags,
    "gemma": lambda config: {**_gemma_flags(config), "activation": "gelu_tanh"},  # early ones say gelu and mean this
    "gemma2": _gemma2_flags,
    "gemma3_text": _gemma3_flags,
}

# Multimodal model_type -> that of its language model
TEXT_PARTS = {"gemma3": "gemma3_text"}


# Every n-th layer has full attention; 0: none has. config.json overrides it
WINDOW_PERIODS = {
    "mistral": 0,
    "ministral": 0,
    "mixtral": 0,
    "phi3": 0,
    "olmo3": 4,
    "exaone4": 4,
    "gemma2": 2,
    "gpt_oss": 2,
    "gemma3_text": 6,
}


def hub_windows(config: Mapping[str, Any]) -> tuple[int, ...]:
    num_layers: int = config["num_hidden_layers"]
    window: int = config.get("sliding_window") or 0
    period = config.get("sliding_window_pattern") or WINDOW_PERIODS.get(config["model_type"])
    if period is None and not config.get("use_sliding_window"):
        return (0,) * num_layers
    if (kinds := config.get("layer_types")) is not None:
        return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    if isinstance(period, str):  # such as LLLG: local and global layers
        return tuple(window if period[layer % len(period)] == "L" else 0 for layer in range(num_layers))
    if period is not None:
        return tuple(0 if period and (layer + 1) % period == 0 else window for layer in range(num_layers))
    return tuple(0 if layer < config["max_window_layers"] else window for layer in range(num_layers))
