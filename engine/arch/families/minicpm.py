"""OpenBMB's MiniCPM 3."""

from math import sqrt

from engine.arch import gguf_config as gguf
from engine.arch.families.deepseek import gguf_latent_attention, latent_attention
from engine.arch.hub_config import Config, HubFamily, decoder, dense
from engine.arch.model_arch import ModelArch

__all__ = ["GGUF", "HUB"]


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


# -- GGUF


def _gguf_minicpm3(file: gguf.Metadata) -> ModelArch:
    """The scales are not in the file: they are those of the released model."""
    sizes = file.sizes
    v_dim = sizes.get("attention.value_length") or sizes["embedding_length"] // sizes["attention.head_count"]
    mixer = gguf_latent_attention(gguf.Metadata({**sizes, "attention.value_length": v_dim}, file.shapes))
    return gguf.decoder(
        file,
        mixer,
        gguf.dense(file),
        embedding_scale=12.0,
        residual_scale=1.4 / sqrt(gguf.num_layers(file)),
        logit_scale=256 / sizes["embedding_length"],
    )


GGUF = {"minicpm3": gguf.GgufFamily(_gguf_minicpm3)}
