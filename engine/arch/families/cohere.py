"""Cohere's Command models."""

from typing import Any

import msgspec

from engine.arch import gguf_config as gguf
from engine.arch.families.llama import biases
from engine.arch.feed_forward_spec import Router
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, experts, windowed, windows
from engine.arch.mixer_spec import SelfAttention
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


def _cohere2_moe(config: Config) -> ModelArch:
    """Command A with experts behind some dense layers, which are all rotated where their pattern says so."""
    if config.get("rms_norm_eps") is not None:
        raise ModelError("rms_norm_eps is not supported; it must be null: layers have a LayerNorm")
    if config["num_shared_experts"] and config["shared_expert_combination_strategy"] != "sum":
        raise ModelError("shared_expert_combination_strategy is not supported; it must be sum")
    count, first = config["num_hidden_layers"], config.get("first_k_dense_replace") or 0
    kinds = config.get("mlp_layer_types") or ["dense"] * first + ["sparse"] * (count - first)
    full = attention(config, **biases(config))
    nope = msgspec.structs.replace(full, rope=None)
    mixers = windowed(nope, windows(config, 4), full.rope)
    if config["prefix_dense_sliding_window_pattern"] == 1:
        mixers = [full if one == nope and kind == "dense" else one for one, kind in zip(mixers, kinds, strict=True)]
    router = Router(
        num_experts=config["num_experts"],
        experts_per_token=config["num_experts_per_tok"],
        scoring=config["expert_selection_fn"],
        renormalizes=config["expert_selection_fn"] == "softmax" or config["norm_topk_prob"],
    )
    dim = config["intermediate_size"]
    shared = dense(config, dim=dim * config["num_shared_experts"]) if config["num_shared_experts"] else None
    moe = experts(config, router, dim, shared=shared)
    mlp = dense(config, dim=config.get("prefix_dense_intermediate_size") or dim)
    ffns = [mlp if kind == "dense" else moe for kind in kinds]
    return decoder(config, mixers, ffns, "parallel", **_rules(config))


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
    "cohere2_moe": HubFamily(
        _cohere2_moe,
        {
            **DEFAULTS,
            "head_dim": 128,
            "sliding_window": 4096,
            "num_shared_experts": 0,
            "shared_expert_combination_strategy": "average",
            "expert_selection_fn": "softmax",
            "norm_topk_prob": True,
            "prefix_dense_sliding_window_pattern": 1,
        },
    ),
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
