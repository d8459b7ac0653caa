"""OpenBMB's MiniCPM 3."""

from math import sqrt

from engine.arch.families.deepseek import latent_attention
from engine.arch.hub_config import Config, HubFamily, decoder, dense
from engine.arch.model_arch import ModelArch

__all__ = ["HUB"]


def _minicpm3(config: Config) -> ModelArch:
    dim, count = config["hidden_size"], config["num_hidden_layers"]
    v_dim = config.get("v_head_dim") or dim // config["num_attention_heads"]
    depth, base = config.get("scale_depth") or sqrt(count), config.get("dim_model_base") or dim
    return decoder(
        config,
        latent_attention({**config, "v_head_dim": v_dim}),
        dense(config, bias=config["mlp_bias"]),
        embedding_scale=config["scale_emb"],
        residual_scale=depth / sqrt(count),
        logit_scale=base / dim,
    )


HUB = {
    "minicpm3": HubFamily(
        _minicpm3,
        {
            "rms_norm_eps": 1e-5,
            "q_lora_rank": 768,
            "kv_lora_rank": 256,
            "qk_nope_head_dim": 64,
            "qk_rope_head_dim": 32,
            "mlp_bias": False,
            "scale_emb": 12,
            "scale_depth": 1.4,
            "dim_model_base": 256,
            "tie_word_embeddings": True,
        },
    )
}
