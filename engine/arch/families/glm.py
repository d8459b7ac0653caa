"""Z.ai's GLM models, and Upstage's Solar Open, which is one."""

from engine.arch import gguf_config as gguf
from engine.arch.families.deepseek import INDEX_DEFAULTS, dense_first, indexer, latent_attention
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense
from engine.arch.model_arch import ModelArch

__all__ = ["GGUF", "HUB"]


def _glm(config: Config) -> ModelArch:
    return decoder(config, attention(config, qkv_bias=config["attention_bias"]), dense(config), interleaved_rope=True)


def _glm4(config: Config) -> ModelArch:
    mixer = attention(config, qkv_bias=config["attention_bias"])
    return decoder(config, mixer, dense(config), "around", interleaved_rope=True)


def _glm4_moe(config: Config) -> ModelArch:
    """GLM-4.5 to 4.7."""
    qk_norm = "head" if config.get("use_qk_norm") else ""
    mixer = attention(config, qkv_bias=config.get("attention_bias", False), qk_norm=qk_norm)
    return decoder(config, mixer, dense_first(config))


def _solar_open(config: Config) -> ModelArch:
    """Upstage's Solar Open: GLM-4.5's experts in all layers."""
    mixer = attention(config, qkv_bias=config.get("attention_bias", False))
    ffns = dense_first({"intermediate_size": config["moe_intermediate_size"], **config, "first_k_dense_replace": 0})
    return decoder(config, mixer, ffns)


def _glm4_moe_lite(config: Config) -> ModelArch:
    """GLM-4.7-Flash: DeepSeek-V3's attention."""
    ffns = dense_first({**config, "first_k_dense_replace": 1})
    return decoder(config, latent_attention(config), ffns, interleaved_rope=config.get("rope_interleave", True))


def _glm_moe_dsa(config: Config) -> ModelArch:
    """GLM-5: DeepSeek-V3.2 in which most layers attend to the tokens that one before them has chosen."""
    has_indexer = [kind == "full" for kind in _indexer_types(config)]
    if not has_indexer or not has_indexer[0]:
        raise ValueError("the first layer has no indexer")
    own = indexer(config, interleaved_rope=True)
    mixers, source = [], 0
    for index, full in enumerate(has_indexer):
        source = index if full else source
        mixers.append(latent_attention(config, indexer=own, index_from=None if full else source))
    return decoder(config, mixers, dense_first(config), interleaved_rope=True)


def _indexer_types(config: Config) -> list[str]:
    count = config["num_hidden_layers"]
    if (kinds := config.get("indexer_types")) is not None:
        return list(kinds)[:count]
    if (pattern := config.get("index_topk_pattern")) is not None:
        return [{"F": "full", "S": "shared"}.get(kind, kind) for kind in pattern][:count]
    period, offset = max(config.get("index_topk_freq") or 1, 1), config.get("index_skip_topk_offset", 2)
    return ["full" if max(index - offset + 1, 0) % period == 0 else "shared" for index in range(count)]


DEFAULTS = {"attention_bias": True, "head_dim": 128, "num_key_value_heads": 2, "partial_rotary_factor": 0.5}

GLM4_NAMES = {
    ".post_attention_layernorm.": ".pre_feedforward_layernorm.",
    ".post_self_attn_layernorm.": ".post_attention_layernorm.",
    ".post_mlp_layernorm.": ".post_feedforward_layernorm.",
}

GLM5_DEFAULTS = {
    "rms_norm_eps": 1e-5,
    "kv_lora_rank": 512,
    "q_lora_rank": 2048,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 3,
}

HUB = {
    "glm": HubFamily(_glm, DEFAULTS),
    "glm4": HubFamily(_glm4, DEFAULTS, GLM4_NAMES),
    "glm4_moe_lite": HubFamily(
        _glm4_moe_lite, {"rms_norm_eps": 1e-5, "routed_scaling_factor": 1.8, "n_shared_experts": 1}
    ),
    "glm_moe_dsa": HubFamily(_glm_moe_dsa, {**GLM5_DEFAULTS, **INDEX_DEFAULTS, "index_n_heads": 32}),
    "solar_open": HubFamily(
        _solar_open, {"head_dim": 128, "n_shared_experts": 1, "rms_norm_eps": 1e-5, "rope_theta": 1_000_000.0}
    ),
    "glm4_moe": HubFamily(_glm4_moe, {"partial_rotary_factor": 0.5, "rms_norm_eps": 1e-5}),
}


# -- GGUF


def _gguf_glm4(file: gguf.Metadata) -> ModelArch:
    return gguf.decoder(file, gguf.attention(file), gguf.dense(file), "around", interleaved_rope=True)


def _gguf_glm4moe(file: gguf.Metadata) -> ModelArch:
    return gguf.decoder(file, gguf.attention(file), gguf.sparse_layers(file, gguf.experts(file, renormalizes=True)))


GGUF = {
    "glm4": gguf.GgufFamily(_gguf_glm4, {"ffn_up": "mlp.gate_up_proj", "ffn_norm": "pre_feedforward_layernorm"}),
    "glm4moe": gguf.GgufFamily(_gguf_glm4moe),
}
