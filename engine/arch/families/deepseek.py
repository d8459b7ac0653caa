"""DeepSeek's models, Moonshot's Kimi K2, which is one, and dots.llm1, whose experts are theirs."""

from collections.abc import Sequence
from math import log
from typing import Any, Literal

import msgspec

from engine.arch import gguf_config as gguf
from engine.arch.families.llama import biases
from engine.arch.feed_forward_spec import FeedForward, MoE, Router
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, experts, rope_of, windowed, windows
from engine.arch.layer_spec import LayerSpec
from engine.arch.mixer_spec import LatentAttention, TokenIndexer
from engine.arch.model_arch import ModelArch
from engine.arch.rope import YarnScaling
from engine.arch.rope_config import hub_rope

__all__ = ["GGUF", "HUB", "INDEX_DEFAULTS", "dense_first", "gguf_latent_attention", "indexer", "latent_attention"]


def dense_first(
    config: Config,
    scoring: Literal["softmax", "sigmoid"] = "sigmoid",
    corrected: bool = True,
    group_score: Literal["max", "top2"] = "top2",
) -> list[FeedForward]:
    """The first layers are dense, the others have experts in groups; by default as DeepSeek-V3 chooses them."""
    router = Router(
        num_experts=config["n_routed_experts"],
        experts_per_token=config["num_experts_per_tok"],
        scoring=scoring,
        renormalizes=config.get("norm_topk_prob", True),
        correction_bias=corrected,
        group_score=group_score,
        num_groups=config.get("n_group") or 1,
        groups_per_token=config.get("topk_group") or 1,
        scale=config.get("routed_scaling_factor", 1.0),
    )
    num_shared, dim = config.get("n_shared_experts") or 0, config["moe_intermediate_size"]
    shared = dense(config, dim=dim * num_shared) if num_shared else None
    moe, mlp = experts(config, router, dim, shared=shared), dense(config)
    first, count = config.get("first_k_dense_replace") or 0, config["num_hidden_layers"]
    kinds = config.get("mlp_layer_types") or ["dense"] * first + ["sparse"] * (count - first)
    return [moe if kind == "sparse" else mlp for kind in kinds[:count]]


def latent_attention(config: Config, **changes: Any) -> LatentAttention:
    rope = hub_rope(config)
    dims = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
    fields: dict[str, Any] = {
        "num_heads": config["num_attention_heads"],
        "q_rank": config.get("q_lora_rank") or 0,
        "kv_rank": config["kv_lora_rank"],
        "nope_dim": config["qk_nope_head_dim"],
        "rope_dim": config["qk_rope_head_dim"],
        "v_dim": config["v_head_dim"],
        "rope": rope_of({**config, "partial_rotary_factor": 1.0}, config["qk_rope_head_dim"]),
        "scale": dims**-0.5 * _stretch(rope) ** 2,
        "bias": config.get("attention_bias", False),
    }
    return LatentAttention(**{**fields, **changes})


def _stretch(rope: Config) -> float:
    """What YaRN's `mscale_all_dim` multiplies queries and keys by, those without rotary embedding too."""
    slope, factor = rope.get("mscale_all_dim") or 0.0, rope.get("factor") or 1.0
    return 0.1 * slope * log(factor) + 1.0 if slope and factor > 1 else 1.0


def _deepseek_v2(config: Config) -> ModelArch:
    """The choice within groups is by each group's best expert; greedy is without groups."""
    grouped = config.get("topk_method") == "group_limited_greedy"
    groups = {key: config.get(key) if grouped else 1 for key in ("n_group", "topk_group")}
    ffns = dense_first({**config, **groups, "norm_topk_prob": False}, "softmax", corrected=False, group_score="max")
    return decoder(config, latent_attention(config), ffns, interleaved_rope=True)


def _deepseek_v3(config: Config) -> ModelArch:
    interleaved = config.get("rope_interleave", True)
    return decoder(config, latent_attention(config), dense_first(config), interleaved_rope=interleaved)


def indexer(config: Config, **changes: Any) -> TokenIndexer:
    fields = {name: config[f"index_{key}"] for name, key in (("num_heads", "n_heads"), ("head_dim", "head_dim"))}
    return TokenIndexer(**{**fields, "top_k": config["index_topk"], **changes})


def _deepseek_v32(config: Config) -> ModelArch:
    """DeepSeek-V3 with an indexer, whose own RoPE is of halves."""
    mixer = latent_attention(config, indexer=indexer(config))
    return decoder(config, mixer, dense_first(config), interleaved_rope=True)


def _axk1(config: Config) -> ModelArch:
    """SK Telecom's A.X K1: DeepSeek-V3 with a norm behind the experts, and mostly without corrections."""
    count, first, step = (config[key] for key in ("num_hidden_layers", "first_k_dense_replace", "moe_layer_freq"))
    usual = ["sparse" if layer >= first and layer % step == 0 else "dense" for layer in range(count)]
    ffns = dense_first({**config, "mlp_layer_types": config.get("mlp_layer_types") or usual})
    arch = decoder(config, latent_attention(config), ffns, interleaved_rope=config["rope_interleave"])
    return msgspec.structs.replace(arch, layers=tuple(map(_normed_behind, arch.layers)))


def _normed_behind(layer: LayerSpec) -> LayerSpec:
    if not isinstance(moe := layer.feed_forward, MoE):
        return layer
    change = msgspec.structs.replace
    moe = change(moe, router=change(moe.router, corrections_may_lack=True))
    return change(layer, feed_forward=moe, norms="around_ffn")


def _dots1(config: Config) -> ModelArch:
    full = attention(config, **biases(config), qk_norm="head")
    sizes = windows(config) if config.get("layer_types") is None else windows({**config, "use_sliding_window": True})
    return decoder(config, windowed(full, sizes), dense_first(config))


V3_DEFAULTS = {
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 3,
}

INDEX_DEFAULTS = {"index_topk": 2048, "index_head_dim": 128, "index_n_heads": 64}

HUB = {
    "deepseek_v2": HubFamily(_deepseek_v2),
    "deepseek_v3": HubFamily(_deepseek_v3, V3_DEFAULTS),
    "deepseek_v32": HubFamily(_deepseek_v32, {**V3_DEFAULTS, **INDEX_DEFAULTS}),
    "kimi_k2": HubFamily(_deepseek_v3, V3_DEFAULTS),
    "axk1": HubFamily(
        _axk1,
        {
            **V3_DEFAULTS,
            "n_routed_experts": 192,
            "first_k_dense_replace": 1,
            "moe_layer_freq": 1,
            "rope_interleave": True,
        },
        {
            ".mlp.post_mlp_layernorm.": ".post_feedforward_layernorm.",
            ".post_mlp_layernorm.": ".post_feedforward_layernorm.",
        },
    ),
    "dots1": HubFamily(_dots1),
}


# -- GGUF


def _gguf_dots1(file: gguf.Metadata) -> ModelArch:
    ffns = gguf.sparse_layers(file, gguf.experts(file, renormalizes=True))
    return gguf.decoder(file, gguf.attention(file), ffns)


def _gguf_deepseek2(file: gguf.Metadata) -> ModelArch:
    """DeepSeek V2, V3 and R1, Kimi K2, GLM-4.7-Flash."""
    ffns: Sequence[FeedForward] = [gguf.dense(file)] * gguf.num_layers(file)
    if file.sizes.get("expert_count"):
        moe = gguf.experts(file, renormalizes=False)
        if moe.router.scoring == "softmax":  # DeepSeek V2's
            moe = msgspec.structs.replace(moe, router=msgspec.structs.replace(moe.router, group_score="max"))
        ffns = gguf.sparse_layers(file, moe)
    return gguf.decoder(file, gguf_latent_attention(file), ffns, interleaved_rope=True)


def gguf_latent_attention(file: gguf.Metadata) -> LatentAttention:
    """Old files have the sizes of a head without `_mla`."""
    sizes, shapes = file
    rope_dim = sizes["rope.dimension_count"]
    rope = gguf.rope_of(file, rope_dim)
    head_dim = sizes.get("attention.key_length_mla") or sizes["attention.key_length"]
    stretch = 1.0
    # files have 0.1 * mscale_all_dim; what they leave out, mscale, is the same in all released models
    if (slope := sizes.get("rope.scaling.yarn_log_multiplier")) and isinstance(rope.scaling, YarnScaling):
        stretch = slope * log(rope.scaling.factor) + 1.0
        rope = msgspec.structs.replace(rope, scaling=msgspec.structs.replace(rope.scaling, amplitude=1.0))
    return LatentAttention(
        num_heads=sizes["attention.head_count"],
        q_rank=sizes.get("attention.q_lora_rank") or 0,
        kv_rank=sizes["attention.kv_lora_rank"],
        nope_dim=head_dim - rope_dim,
        rope_dim=rope_dim,
        v_dim=sizes.get("attention.value_length_mla") or sizes["attention.value_length"],
        rope=rope,
        scale=head_dim**-0.5 * stretch**2,
        bias="blk.0.attn_output.bias" in shapes,
    )


GGUF = {"dots1": gguf.GgufFamily(_gguf_dots1), "deepseek2": gguf.GgufFamily(_gguf_deepseek2)}
