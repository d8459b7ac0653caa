"""Baidu's ERNIE models."""

from engine.arch import gguf_config as gguf
from engine.arch.feed_forward_spec import FeedForward, Router
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, experts
from engine.arch.mixer_spec import SelfAttention
from engine.arch.model_arch import ModelArch

__all__ = ["GGUF", "HUB"]


def _ernie(config: Config) -> ModelArch:
    mlp = dense(config, bias=config.get("use_bias", False))
    return decoder(config, _attention(config), mlp, interleaved_rope=True)


def _ernie_moe(config: Config) -> ModelArch:
    router = Router(
        num_experts=config["moe_num_experts"],
        experts_per_token=config["moe_k"],
        renormalizes=True,
        correction_bias=True,
    )
    bias, dim = config.get("use_bias", False), config["moe_intermediate_size"]
    num_shared = config.get("moe_num_shared_experts") or 0
    shared = dense(config, dim=dim * num_shared, bias=bias) if num_shared else None
    moe = experts(config, router, dim, shared=shared, bias=bias)
    mlp = dense(config, bias=bias)
    num_layers = config["num_hidden_layers"]
    first, last, step = (config[f"moe_layer_{key}"] for key in ("start_index", "end_index", "interval"))
    last = num_layers - 1 if last < 0 else last

    def of_layer(layer: int) -> FeedForward:
        return moe if first <= layer <= last and (layer + 1) % step == 0 else mlp

    return decoder(config, _attention(config), [of_layer(layer) for layer in range(num_layers)], interleaved_rope=True)


def _attention(config: Config) -> SelfAttention:
    bias = config.get("use_bias", False)
    return attention(config, qkv_bias=bias, out_bias=bias)


DEFAULTS = {"rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "tie_word_embeddings": True}

HUB = {
    "ernie4_5": HubFamily(_ernie, {**DEFAULTS, "head_dim": 128}),
    "ernie4_5_moe": HubFamily(
        _ernie_moe,
        {
            **DEFAULTS,
            "moe_k": 6,
            "moe_num_experts": 64,
            "moe_num_shared_experts": 2,
            "moe_layer_start_index": 1,
            "moe_layer_end_index": -1,
            "moe_layer_interval": 1,
        },
        {".moe_statics.e_score_correction_bias": ".gate.e_score_correction_bias"},
    ),
}


# -- GGUF


def _gguf_dense(file: gguf.Metadata) -> ModelArch:
    return gguf.decoder(file, gguf.attention(file), gguf.dense(file), interleaved_rope=True)


def _gguf_moe(file: gguf.Metadata) -> ModelArch:
    ffns = gguf.sparse_layers(file, gguf.experts(file, renormalizes=True))
    return gguf.decoder(file, gguf.attention(file), ffns, interleaved_rope=True)


GGUF = {"ernie4_5": gguf.GgufFamily(_gguf_dense), "ernie4_5-moe": gguf.GgufFamily(_gguf_moe)}
