"""Cohere's Command models."""

from typing import Any

import msgspec

from engine.arch.families.llama import biases
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, windowed, windows
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["HUB"]


def _cohere(config: Config) -> ModelArch:
    if config.get("use_qk_norm"):
        raise ModelError("use_qk_norm is not supported: a LayerNorm of its own for each head")
    return decoder(config, attention(config, **biases(config)), dense(config), "parallel", **_rules(config))


def _cohere2(config: Config) -> ModelArch:
    """Layers with a window are rotated, those with full attention are NoPE layers."""
    full = attention(config, **biases(config))
    mixers = windowed(msgspec.structs.replace(full, rope=None), windows(config, 4), full.rope)
    return decoder(config, mixers, dense(config), "parallel", **_rules(config))


def _rules(config: Config) -> dict[str, Any]:
    return {
        "norm": "layer",
        "norm_eps": config["layer_norm_eps"],
        "logit_scale": config["logit_scale"],
        "interleaved_rope": True,
    }


DEFAULTS = {"layer_norm_eps": 1e-5, "logit_scale": 0.0625, "tie_word_embeddings": True}

HUB = {
    "cohere": HubFamily(_cohere, DEFAULTS),
    "cohere2": HubFamily(_cohere2, {**DEFAULTS, "sliding_window": 4096}),
}
