"""Reads a Hugging Face Hub model's config.json: finds the family, and has it describe the model."""

from collections.abc import Mapping
from types import MappingProxyType

from engine.arch.families import (
    afmoe,
    bailing,
    cohere,
    deepseek,
    ernie,
    exaone,
    falcon,
    flint,
    gemma,
    gemma3n,
    gemma4,
    glm,
    gpt_neox,
    gpt_oss,
    granite,
    hunyuan,
    kimi,
    kolibri,
    laguna,
    lfm,
    llama,
    longcat,
    mimo,
    minicpm,
    minimax,
    mistral,
    nanochat,
    nemotron,
    olmo,
    phi,
    qwen,
    stablelm,
    starcoder,
)
from engine.arch.hub_config import Config, HubFamily
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["HUB_FAMILIES", "arch_from_hub", "hub_family"]

HUB_FAMILIES: Mapping[str, HubFamily] = MappingProxyType(
    llama.HUB
    | mistral.HUB
    | phi.HUB
    | qwen.HUB
    | gemma.HUB
    | gemma3n.HUB
    | gemma4.HUB
    | olmo.HUB
    | glm.HUB
    | granite.HUB
    | cohere.HUB
    | deepseek.HUB
    | ernie.HUB
    | exaone.HUB
    | falcon.HUB
    | gpt_oss.HUB
    | hunyuan.HUB
    | kimi.HUB
    | lfm.HUB
    | longcat.HUB
    | mimo.HUB
    | minimax.HUB
    | nemotron.HUB
    | afmoe.HUB
    | bailing.HUB
    | laguna.HUB
    | gpt_neox.HUB
    | flint.HUB
    | kolibri.HUB
    | minicpm.HUB
    | nanochat.HUB
    | stablelm.HUB
    | starcoder.HUB
)

# Multimodal model_type -> that of its language model, which may stand in text_config itself
TEXT_PARTS = {
    "qwen2_5_vl": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "kimi_k25": "kimi_k2",
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_unified_text",
    "mistral3": "mistral",
    "llama4": "llama4_text",
}


SHARED_LATENTS = "latents that layers share and its learned rotary frequencies are not implemented"
HYPER_CONNECTIONS = "its hyper-connections are not implemented"
MAMBA = "the first Mamba's selective scan is not implemented, only Mamba-2"
# model_types that people may try, and why they are refused
REFUSED = {
    "mistral_large4": SHARED_LATENTS,
    "mistral_large4_text": SHARED_LATENTS,
    "axk2": "its gated norms are not implemented",
    "dots3_note": "latent attention with sliding windows is not implemented",
    "hy_v4": HYPER_CONNECTIONS,
    "glm5_next": HYPER_CONNECTIONS,
    "minimax_m3_vl": "the indexer of its block-sparse attention is not implemented",
    "minimax_m3_vl_text": "the indexer of its block-sparse attention is not implemented",
    "qwen4_exp": "its embedding of n-grams is not implemented",
    "qwen4_exp_text": "its embedding of n-grams is not implemented",
    "jamba": MAMBA,
    "mamba": MAMBA,
    "falcon_mamba": MAMBA,
    "zamba": MAMBA,
    "step3p5": "its clamped SwiGLU is not implemented",
    "step3p7": "its clamped SwiGLU is not implemented",
    "mimo_v2": "its queries, keys and values in parts of one matrix are not read",
    "deepseek_v4": "its attention over compressed keys and values is not implemented",
    "gemma4_assistant": "it drafts tokens for Gemma 4 and is no model by itself",
    "gemma4_unified_assistant": "it drafts tokens for Gemma 4 and is no model by itself",
}


def arch_from_hub(config: Config) -> ModelArch:
    """Raises ModelError for what the decoder does not support."""
    family, config = _text_part(config)
    try:
        return HUB_FAMILIES[family].read({**HUB_FAMILIES[family].defaults, **config})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"config.json is not complete: {type(error).__name__} {error}") from error


def hub_family(config: Config) -> HubFamily:
    """Raises ModelError, which names the supported ones."""
    return HUB_FAMILIES[_text_part(config)[0]]


def _text_part(config: Config) -> tuple[str, Config]:
    """The family of the language model, and its config."""
    family = config.get("model_type")
    if isinstance(family, str) and family in REFUSED:
        raise ModelError(f"model type {family!r} is not supported: {REFUSED[family]}")
    if isinstance(family, str) and family in TEXT_PARTS:
        text = config.get("text_config")
        if not isinstance(text, dict):
            raise ModelError("config.json is not complete: KeyError 'text_config'")
        family = text.get("model_type") if text.get("model_type") in HUB_FAMILIES else TEXT_PARTS[family]
        assert isinstance(family, str)
        # the head is the whole model's
        tied = {key: config[key] for key in ("tie_word_embeddings",) if key in config}
        return family, {**text, **tied, "model_type": family}
    if not isinstance(family, str) or family not in HUB_FAMILIES:
        names = ", ".join((*HUB_FAMILIES, *TEXT_PARTS))
        raise ModelError(f"model type {family!r} is not supported; supported are {names}")
    return family, config
