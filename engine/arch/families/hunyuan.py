"""Tencent's Hunyuan and Youtu models."""

from engine.arch import gguf_config as gguf
from engine.arch.families.deepseek import dense_first, latent_attention
from engine.arch.families.llama import biases
from engine.arch.feed_forward_spec import FeedForward, Router
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, experts
from engine.arch.mixer_spec import SelfAttention
from engine.arch.model_arch import ModelArch
from engine.arch.rope_config import hub_rope

__all__ = ["GGUF", "HUB"]


def _dense(config: Config) -> ModelArch:
    config = _with_static_rope(config)
    return decoder(config, _attention(config), dense(config, bias=config.get("mlp_bias", False)))


def _moe(config: Config) -> ModelArch:
    config = _with_static_rope(config)

    def of_layer(layer: int) -> FeedForward:
        numbers = (config[key] for key in ("num_experts", "moe_topk"))
        num_experts, top_k = (one if isinstance(one, int) else one[layer] for one in numbers)
        router = Router(num_experts=num_experts, experts_per_token=top_k, renormalizes=True)
        return experts(config, router, config["intermediate_size"], shared=dense(config))

    return decoder(config, _attention(config), [of_layer(layer) for layer in range(config["num_hidden_layers"])])


def _attention(config: Config) -> SelfAttention:
    return attention(config, **biases(config), qk_norm="rotated")


def _with_static_rope(config: Config) -> Config:
    """RoPE scaling "dynamic" with an alpha is NTK-aware scaling by that alpha at all lengths: a larger base."""
    rope = hub_rope(config)
    if not (alpha := rope.get("alpha")):
        return config
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    theta = rope["rope_theta"] * alpha ** (dim / (dim - 2))
    return {**config, "rope_parameters": None, "rope_scaling": None, "rope_theta": theta}


NAMES = {
    ".query_layernorm.": ".q_norm.",
    ".key_layernorm.": ".k_norm.",
    ".gate.wg.": ".gate.",
    ".shared_mlp.": ".shared_experts.",
}


def _hy3(config: Config) -> ModelArch:
    """Hunyuan 3: experts as DeepSeek-V3 chooses them, without groups."""
    names = {
        "n_routed_experts": config["num_experts"],
        "n_shared_experts": config["num_shared_experts"],
        "routed_scaling_factor": config["router_scaling_factor"],
        "first_k_dense_replace": 1,
    }
    mixer = attention(config, **biases(config), qk_norm="head")
    return decoder(config, mixer, dense_first({**config, **names}))


def _youtu(config: Config) -> ModelArch:
    """Youtu-LLM: DeepSeek's attention in a dense model."""
    rope = config.get("rope_interleave", True)
    return decoder(config, latent_attention(config), dense(config), interleaved_rope=rope)


HUB = {
    "youtu": HubFamily(
        _youtu,
        {
            "q_lora_rank": 1536,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "tie_word_embeddings": True,
        },
    ),
    "hy_v3": HubFamily(
        _hy3,
        {
            "head_dim": 128,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
            "rope_theta": 11_158_840.0,
            "router_scaling_factor": 2.826,
            "num_shared_experts": 1,
        },
        {
            ".mlp.router.gate.": ".mlp.gate.",
            ".mlp.expert_bias": ".mlp.gate.e_score_correction_bias",
            ".mlp.shared_mlp.": ".mlp.shared_experts.",
        },
    ),
    "hunyuan_v1_dense": HubFamily(_dense, {"rms_norm_eps": 1e-5}, NAMES),
    "hunyuan_v1_moe": HubFamily(_moe, {"rms_norm_eps": 1e-5}, NAMES),
}


# -- GGUF


def _gguf_dense(file: gguf.Metadata) -> ModelArch:
    return gguf.decoder(file, gguf.attention(file, qk_norm="rotated"), gguf.dense(file))


def _gguf_moe(file: gguf.Metadata) -> ModelArch:
    return gguf.decoder(file, gguf.attention(file, qk_norm="rotated"), gguf.experts(file, renormalizes=True))


GGUF = {"hunyuan-dense": gguf.GgufFamily(_gguf_dense), "hunyuan-moe": gguf.GgufFamily(_gguf_moe)}
