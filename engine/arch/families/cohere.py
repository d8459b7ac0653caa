"""Cohere's Command models."""

from typing import Any

import msgspec

from engine.arch import gguf_config as gguf
from engine.arch.families.llama import biases
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, windowed, windows
from engine.arch.layer_spec import SelfAttention
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["GGUF", "HUB"]


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


# -- GGUF


def _gguf_cohere(file: gguf.Metadata) -> ModelArch:
    return _gguf_decoder(file, [gguf.attention(file)] * gguf.num_layers(file))


def _gguf_cohere2(file: gguf.Metadata) -> ModelArch:
    full = gguf.attention(file)
    return _gguf_decoder(
        file, gguf.windowed(msgspec.structs.replace(full, rope=None), gguf.windows(file, 4), full.rope)
    )


def _gguf_decoder(file: gguf.Metadata, mixers: list[SelfAttention]) -> ModelArch:
    if "blk.0.attn_q_norm.weight" in file.shapes:
        raise ModelError("attn_q_norm is not supported: a LayerNorm of its own for each head")
    scale = file.sizes["logit_scale"]
    ffn = gguf.dense(file)
    return gguf.decoder(file, mixers, ffn, "parallel", norm="layer", logit_scale=scale, interleaved_rope=True)


GGUF = {"command-r": gguf.GgufFamily(_gguf_cohere), "cohere2": gguf.GgufFamily(_gguf_cohere2)}
