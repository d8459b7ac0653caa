"""Liquid AI's LFM2 and LFM3 models."""

from typing import Any

import msgspec

from engine.arch import gguf_config as gguf
from engine.arch.families.llama import biases
from engine.arch.feed_forward_spec import FeedForward, Router
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, experts, window_rope
from engine.arch.mixer_spec import Mixer, OutputGate, ShortConv
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["GGUF", "HUB"]


def _lfm2(config: Config) -> ModelArch:
    return decoder(config, _mixers(config), dense(config, dim=_ffn_dim(config)), **_rules(config))


def _lfm2_moe(config: Config) -> ModelArch:
    router = Router(
        num_experts=config["num_experts"],
        experts_per_token=config["num_experts_per_tok"],
        scoring="sigmoid",
        renormalizes=config.get("norm_topk_prob", True),
        correction_bias=config.get("use_expert_bias", True),
        scale=config.get("routed_scaling_factor", 1.0),
    )
    moe, mlp = experts(config, router, config["moe_intermediate_size"]), dense(config)
    first = config["num_dense_layers"]
    ffns: list[FeedForward] = [mlp if layer < first else moe for layer in range(config["num_hidden_layers"])]
    return decoder(config, _mixers(config), ffns, **_rules(config))


def _lfm3(config: Config) -> ModelArch:
    """Short convolutions, sliding windows with a rope of their own, and full attention; norms around each block."""
    if not config["use_sandwich_norm"]:
        raise ModelError("use_sandwich_norm is not supported as false; it must be true")
    gate = OutputGate(per_head=True) if config["use_attention_gate"] else None
    full = attention(config, **biases(config), qk_norm="head", gate=gate)
    assert full.rope is not None
    window = msgspec.structs.replace(
        full, sliding_window=config["sliding_window"], rope=window_rope(config, full.head_dim, 10_000.0)
    )
    conv = ShortConv(dim=config["hidden_size"], kernel_size=config["conv_L_cache"], bias=config.get("conv_bias", False))
    kinds: dict[str, Mixer] = {"conv": conv, "sliding_attention": window, "full_attention": full}
    count = config["num_hidden_layers"]
    usual = [
        "full_attention" if i % 4 == 2 else "conv" if i % 4 or not i else "sliding_attention" for i in range(count)
    ]
    mixers = [kinds[kind] for kind in config.get("layer_types") or usual]
    return decoder(config, mixers, dense(config), "around", **_rules(config))


def _mixers(config: Config) -> list[Mixer]:
    conv = ShortConv(dim=config["hidden_size"], kernel_size=config["conv_L_cache"], bias=config.get("conv_bias", False))
    full = attention(config, qk_norm="head")
    num_layers = config["num_hidden_layers"]
    indices = config.get("full_attn_idxs")
    indices = range(num_layers) if indices is None else indices
    usual = ["full_attention" if layer in indices else "conv" for layer in range(num_layers)]
    return [conv if kind == "conv" else full for kind in config.get("layer_types") or usual]


def _ffn_dim(config: Config) -> int:
    dim: int = config.get("block_ff_dim") or config["intermediate_size"]
    if not config.get("block_auto_adjust_ff_dim", True):
        return dim
    multiple = config.get("block_multiple_of", 256)
    dim = int((config.get("block_ffn_dim_multiplier") or 1.0) * int(2 * dim / 3))
    return int(-(-dim // multiple) * multiple)


def _rules(config: Config) -> dict[str, Any]:
    tied = config.get("tie_embedding", config.get("tie_word_embeddings", True))
    return {"norm_eps": config.get("norm_eps", 1e-5), "tied": tied}


NAMES = {
    ".operator_norm.": ".input_layernorm.",
    ".ffn_norm.": ".post_attention_layernorm.",
    "model.embedding_norm.": "model.norm.",
    ".self_attn.out_proj.": ".self_attn.o_proj.",
    ".q_layernorm.": ".q_norm.",
    ".k_layernorm.": ".k_norm.",
    ".feed_forward.": ".mlp.",
    ".w1.": ".gate_proj.",
    ".w3.": ".up_proj.",
    ".w2.": ".down_proj.",
    ".mlp.expert_bias": ".mlp.gate.e_score_correction_bias",
}
DEFAULTS = {"conv_L_cache": 3, "num_key_value_heads": 8, "rope_theta": 1_000_000.0}

HUB = {
    "lfm2": HubFamily(_lfm2, DEFAULTS, NAMES),
    "lfm3": HubFamily(
        _lfm3,
        {
            "conv_L_cache": 7,
            "head_dim": 128,
            "num_key_value_heads": 4,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "proportional",
                    "rope_theta": 1_000_000.0,
                    "partial_rotary_factor": 0.5,
                }
            },
            "sliding_window": 256,
            "use_attention_gate": True,
            "use_sandwich_norm": True,
        },
        {
            **NAMES,
            ".operator_norm.": ".input_layernorm.",
            ".post_operator_norm.": ".post_attention_layernorm.",
            ".ffn_norm.": ".pre_feedforward_layernorm.",
            ".post_ffn_norm.": ".post_feedforward_layernorm.",
        },
    ),
    "lfm2_moe": HubFamily(_lfm2_moe, {**DEFAULTS, "num_dense_layers": 2, "num_experts_per_tok": 4}, NAMES),
}


# -- GGUF


def _gguf_dense(file: gguf.Metadata) -> ModelArch:
    return gguf.decoder(file, _gguf_mixers(file), gguf.dense(file))


def _gguf_moe(file: gguf.Metadata) -> ModelArch:
    return gguf.decoder(file, _gguf_mixers(file), gguf.sparse_layers(file, gguf.experts(file, renormalizes=True)))


def _gguf_mixers(file: gguf.Metadata) -> list[Mixer]:
    """Layers of attention are those with KV heads."""
    heads = file.sizes["attention.head_count_kv"]
    full = gguf.attention(file, qk_norm="head")
    bias = any(name.endswith("shortconv.conv.bias") for name in file.shapes)
    conv = ShortConv(dim=file.sizes["embedding_length"], kernel_size=file.sizes["shortconv.l_cache"], bias=bias)
    return [full if num_kv_heads else conv for num_kv_heads in heads]


GGUF_NAMES = {"shortconv.conv": "conv.conv", "shortconv.in_proj": "conv.in_proj", "shortconv.out_proj": "conv.out_proj"}
GGUF = {"lfm2": gguf.GgufFamily(_gguf_dense, GGUF_NAMES), "lfm2moe": gguf.GgufFamily(_gguf_moe, GGUF_NAMES)}
