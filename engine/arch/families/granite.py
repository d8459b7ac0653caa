"""IBM's Granite models."""

from typing import Any

from engine.arch import gguf_config as gguf
from engine.arch.families.llama import biases
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, experts
from engine.arch.layer_spec import Router
from engine.arch.model_arch import ModelArch

__all__ = ["GGUF", "HUB"]


def _granite(config: Config) -> ModelArch:
    mixer = attention(config, **biases(config), scale=config["attention_multiplier"])
    return decoder(config, mixer, dense(config, bias=config.get("mlp_bias", False)), **_scales(config))


def _granitemoe(config: Config) -> ModelArch:
    mixer = attention(config, **biases(config), scale=config["attention_multiplier"])
    router = Router(
        num_experts=config["num_local_experts"], experts_per_token=config["num_experts_per_tok"], renormalizes=True
    )
    shared_dim = config.get("shared_intermediate_size")
    shared = dense(config, dim=shared_dim) if shared_dim else None
    return decoder(
        config, mixer, experts(config, router, config["intermediate_size"], shared=shared), **_scales(config)
    )


def _scales(config: Config) -> dict[str, Any]:
    return {
        "embedding_scale": config["embedding_multiplier"],
        "residual_scale": config["residual_multiplier"],
        "logit_scale": 1 / config["logits_scaling"],
    }


DEFAULTS = dict.fromkeys(("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"), 1.0)
MOE_NAMES = {
    ".block_sparse_moe.router.layer.": ".mlp.gate.",
    ".block_sparse_moe.input_linear.weight": ".mlp.experts.gate_up_proj",
    ".block_sparse_moe.output_linear.weight": ".mlp.experts.down_proj",
    ".shared_mlp.input_linear.": ".mlp.shared_experts.gate_up_proj.",
    ".shared_mlp.output_linear.": ".mlp.shared_experts.down_proj.",
}

HUB = {
    "granite": HubFamily(_granite, DEFAULTS),
    "granitemoe": HubFamily(_granitemoe, DEFAULTS, MOE_NAMES, expert_stacks="rows"),
    "granitemoeshared": HubFamily(_granitemoe, DEFAULTS, MOE_NAMES, expert_stacks="rows"),
}


# -- GGUF


def _gguf_granite(file: gguf.Metadata) -> ModelArch:
    sizes = file.sizes
    return gguf.decoder(
        file,
        gguf.attention(file, scale=sizes.get("attention.scale")),
        gguf.dense(file),
        embedding_scale=sizes.get("embedding_scale", 1.0),
        residual_scale=sizes.get("residual_scale", 1.0),
        logit_scale=1 / sizes["logit_scale"],
    )


GGUF = {"granite": gguf.GgufFamily(_gguf_granite, permuted_rope=True)}
