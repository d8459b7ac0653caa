"""Mistral's models: Mistral, Ministral, Mixtral, Mistral Small 3 and 4, and Ministral 3."""

import msgspec

from engine.arch import gguf_config as gguf
from engine.arch.families.deepseek import dense_first, gguf_latent_attention, latent_attention
from engine.arch.feed_forward_spec import Router
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, experts, windowed, windows
from engine.arch.mixer_spec import QueryScaling
from engine.arch.model_arch import ModelArch
from engine.arch.rope_config import hub_rope

__all__ = ["GGUF", "HUB"]


def _mistral(config: Config) -> ModelArch:
    return decoder(config, windowed(attention(config), windows(config, 0)), dense(config))


def _ministral3(config: Config) -> ModelArch:
    full = attention(config, query_scaling=_query_scaling(config))
    return decoder(config, windowed(full, windows(config, 0)), dense(config))


def _mistral4(config: Config) -> ModelArch:
    """DeepSeek's attention and experts; all of `qk_rope_head_dim` is rotated, whatever share the config tells."""
    rope = {**(config.get("rope_parameters") or MISTRAL4_ROPE), "partial_rotary_factor": 1.0}
    config = {**config, "rope_parameters": rope}
    mixer = latent_attention(config, query_scaling=_query_scaling(config))
    ffns = dense_first(config, "softmax", corrected=False)
    return decoder(config, mixer, ffns, interleaved_rope=config.get("rope_interleave", True))


def _query_scaling(config: Config) -> QueryScaling | None:
    rope = hub_rope(config)
    if not (beta := rope.get("llama_4_scaling_beta")):
        return None
    return QueryScaling(beta, rope["original_max_position_embeddings"])


def _mixtral(config: Config) -> ModelArch:
    router = Router(
        num_experts=config["num_local_experts"], experts_per_token=config["num_experts_per_tok"], renormalizes=True
    )
    mixers = windowed(attention(config), windows(config, 0))
    return decoder(config, mixers, experts(config, router, config["intermediate_size"]))


MIXTRAL_NAMES = {".w1.": ".gate_proj.", ".w3.": ".up_proj.", ".w2.": ".down_proj.", ".block_sparse_moe.": ".mlp."}

MISTRAL4_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 128.0,
    "original_max_position_embeddings": 8192,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}
MISTRAL4_DEFAULTS = {
    "kv_lora_rank": 256,
    "q_lora_rank": 1024,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "max_position_embeddings": 1_048_576,
}

HUB = {
    "mistral": HubFamily(_mistral),
    "ministral": HubFamily(_mistral),
    "ministral3": HubFamily(_ministral3, {"head_dim": 128, "num_key_value_heads": 8, "rms_norm_eps": 1e-5}),
    "mistral4": HubFamily(_mistral4, MISTRAL4_DEFAULTS, expert_stacks="rows"),
    "mixtral": HubFamily(_mixtral, names=MIXTRAL_NAMES),
}


# -- GGUF


def _gguf_mistral3(file: gguf.Metadata) -> ModelArch:
    scaling = None
    if beta := file.sizes.get("attention.temperature_scale"):
        scaling = QueryScaling(beta, file.sizes["rope.scaling.original_context_length"])
    full = gguf.attention(file, query_scaling=scaling)
    ffn = gguf.experts(file, renormalizes=True) if file.sizes.get("expert_count") else gguf.dense(file)
    return gguf.decoder(file, gguf.windowed(full, gguf.windows(file)), ffn)


def _gguf_mistral4(file: gguf.Metadata) -> ModelArch:
    """Files have no slope of the queries' scaling, which is the same in all released models."""
    slope = file.sizes.get("attention.temperature_scale", MISTRAL4_ROPE["llama_4_scaling_beta"])
    scaling = QueryScaling(slope, file.sizes["rope.scaling.original_context_length"])
    mixer = msgspec.structs.replace(gguf_latent_attention(file), query_scaling=scaling)
    ffns = gguf.sparse_layers(file, gguf.experts(file, renormalizes=True))
    return gguf.decoder(file, mixer, ffns, interleaved_rope=True)


GGUF = {
    "mistral3": gguf.GgufFamily(_gguf_mistral3, permuted_rope=True),
    "mistral4": gguf.GgufFamily(_gguf_mistral4),
}
