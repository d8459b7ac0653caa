"""Poolside's Laguna models."""

import msgspec

from engine.arch.feed_forward_spec import Router
from engine.arch.hub_config import (
    Config,
    HubFamily,
    attention,
    decoder,
    dense,
    experts,
    rope_of,
    window_rope,
    windows,
)
from engine.arch.mixer_spec import OutputGate
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["HUB"]


def _laguna(config: Config) -> ModelArch:
    """Layers differ in their number of query heads, and those with a window in their rope."""
    for key in ("moe_apply_router_weight_on_input", "moe_router_logit_softcapping"):
        if config.get(key):
            raise ModelError(f"{key} is not supported; it must be 0 or left out")
    count, head_dim = config["num_hidden_layers"], config["head_dim"]
    if config.get("attention_bias") or not config["gating"]:
        raise ModelError("attention_bias and gating are not supported as true and false; they must be the other way")
    gate = OutputGate("softplus", per_head=config["gating"] in (True, "per-head"))
    given = (config.get("rope_parameters") or {}).get("sliding_attention") or {}
    window_dim = int(head_dim * (given.get("partial_rotary_factor") or 1.0))
    ropes = rope_of(config, head_dim), window_rope(config, window_dim, 10_000.0)
    full = attention(config, qk_norm="head", gate=gate)
    sizes = windows({**config, "layer_types": config.get("layer_types") or ["full_attention"] * count}, 1)
    heads = config.get("num_attention_heads_per_layer") or [full.num_heads] * count
    mixers = [
        msgspec.structs.replace(full, num_heads=num_heads, sliding_window=size, rope=ropes[size > 0])
        for num_heads, size in zip(heads, sizes, strict=True)
    ]
    router = Router(
        num_experts=config["num_experts"],
        experts_per_token=config["num_experts_per_tok"],
        scoring="sigmoid",
        renormalizes=True,
        correction_bias=True,
        scale=config["moe_routed_scaling_factor"],
    )
    shared = dense(config, dim=config["shared_expert_intermediate_size"])
    moe, mlp = experts(config, router, config["moe_intermediate_size"], shared=shared), dense(config)
    kinds = config.get("mlp_layer_types") or ["dense"] + ["sparse"] * (count - 1)
    return decoder(config, mixers, [moe if kind == "sparse" else mlp for kind in kinds])


HUB = {
    "laguna": HubFamily(
        _laguna,
        {
            "gating": True,
            "head_dim": 128,
            "moe_routed_scaling_factor": 1.0,
            "num_key_value_heads": 8,
            "rope_parameters": {"full_attention": {"rope_theta": 500_000.0, "partial_rotary_factor": 0.5}},
            "sliding_window": 512,
        },
        {
            ".self_attn.g_proj.": ".self_attn.gate_proj.",
            ".mlp.experts.e_score_correction_bias": ".mlp.gate.e_score_correction_bias",
            ".mlp.shared_expert.": ".mlp.shared_experts.",
        },
    )
}
