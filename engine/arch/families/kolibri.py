"""Aleph Alpha's Kolibri."""

import msgspec

from engine.arch.feed_forward_spec import Router
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, experts, windowed, windows
from engine.arch.model_arch import ModelArch

__all__ = ["HUB"]


def _kolibri1(config: Config) -> ModelArch:
    """Layers with full attention are NoPE layers; experts are chosen by corrected logits."""
    full = attention(config, qk_norm="head")
    mixers = windowed(msgspec.structs.replace(full, rope=None), windows(config, 5), full.rope)
    router = Router(
        num_experts=config.get("num_local_experts") or config["num_experts"],
        experts_per_token=config["num_experts_per_tok"],
        scoring="sigmoid",
        renormalizes=config["norm_topk_prob"],
        correction_bias=True,
        corrects_logits=True,
    )
    shared = dense(config, dim=config["shared_expert_intermediate_size"])
    moe = experts(config, router, config["moe_intermediate_size"], shared=shared)
    return decoder(config, mixers, moe, "around")


HUB = {
    "kolibri1": HubFamily(
        _kolibri1,
        {
            "head_dim": 128,
            "num_experts": 384,
            "num_experts_per_tok": 6,
            "num_key_value_heads": 4,
            "norm_topk_prob": False,
            "shared_expert_intermediate_size": 512,
            "sliding_window": 513,
        },
        {
            ".moe.router.expert_bias": ".mlp.gate.e_score_correction_bias",
            ".post_attention_layernorm.": ".pre_feedforward_layernorm.",
            ".post_attn_norm.": ".post_attention_layernorm.",
            ".post_self_attn_layernorm.": ".post_attention_layernorm.",
            ".post_ffn_norm.": ".post_feedforward_layernorm.",
            ".post_mlp_layernorm.": ".post_feedforward_layernorm.",
        },
    )
}
