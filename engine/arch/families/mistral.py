"""Mistral's models: Mistral, Ministral, Mixtral, Mistral Small 3 and Ministral 3."""

from engine.arch import gguf_config as gguf
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, experts, windowed, windows
from engine.arch.layer_spec import QueryScaling, Router
from engine.arch.model_arch import ModelArch
from engine.arch.rope_config import hub_rope

__all__ = ["GGUF", "HUB"]


def _mistral(config: Config) -> ModelArch:
    return decoder(config, windowed(attention(config), windows(config, 0)), dense(config))


def _ministral3(config: Config) -> ModelArch:
    rope = hub_rope(config)
    scaling = None
    if beta := rope.get("llama_4_scaling_beta"):
        scaling = QueryScaling(beta, rope["original_max_position_embeddings"])
    full = attention(config, query_scaling=scaling)
    return decoder(config, windowed(full, windows(config, 0)), dense(config))


def _mixtral(config: Config) -> ModelArch:
    router = Router(
        num_experts=config["num_local_experts"], experts_per_token=config["num_experts_per_tok"], renormalizes=True
    )
    mixers = windowed(attention(config), windows(config, 0))
    return decoder(config, mixers, experts(config, router, config["intermediate_size"]))


MIXTRAL_NAMES = {".w1.": ".gate_proj.", ".w3.": ".up_proj.", ".w2.": ".down_proj.", ".block_sparse_moe.": ".mlp."}

HUB = {
    "mistral": HubFamily(_mistral),
    "ministral": HubFamily(_mistral),
    "ministral3": HubFamily(_ministral3, {"head_dim": 128, "num_key_value_heads": 8, "rms_norm_eps": 1e-5}),
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


GGUF = {"mistral3": gguf.GgufFamily(_gguf_mistral3, permuted_rope=True)}
