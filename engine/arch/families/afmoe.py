"""Arcee's Trinity models."""

import msgspec

from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, experts, windowed, windows
from engine.arch.layer_spec import OutputGate, Router
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["HUB"]


def _afmoe(config: Config) -> ModelArch:
    """Gated attention: layers with a window are rotated, those with full attention are NoPE layers."""
    if config.get("attention_bias"):
        raise ModelError("attention_bias is not supported; it must be false")
    full = attention(config, qk_norm="head", gate=OutputGate())
    mixers = windowed(
        msgspec.structs.replace(full, rope=None), windows(config, config["global_attn_every_n_layers"]), full.rope
    )
    router = Router(
        num_experts=config["num_experts"],
        experts_per_token=config["num_experts_per_tok"],
        scoring="sigmoid",
        renormalizes=True,
        correction_bias=True,
        scale=config["route_scale"],
    )
    dim, mlp, first = config["moe_intermediate_size"], dense(config), config["num_dense_layers"]
    moe = experts(config, router, dim, shared=dense(config, dim=dim * config["num_shared_experts"]))
    ffns = [mlp if layer < first else moe for layer in range(config["num_hidden_layers"])]
    scale = config["hidden_size"] ** 0.5 if config.get("mup_enabled") else 1.0
    return decoder(config, mixers, ffns, "around", embedding_scale=scale)


HUB = {
    "afmoe": HubFamily(
        _afmoe,
        {
            "head_dim": 128,
            "global_attn_every_n_layers": 4,
            "num_dense_layers": 1,
            "num_shared_experts": 2,
            "rms_norm_eps": 1e-5,
            "route_scale": 1.0,
            "sliding_window": 1024,
        },
        {
            ".mlp.router.gate.": ".mlp.gate.",
            ".mlp.expert_bias": ".mlp.gate.e_score_correction_bias",
            ".pre_mlp_layernorm.": ".pre_feedforward_layernorm.",
            ".post_mlp_layernorm.": ".post_feedforward_layernorm.",
        },
    ),
}
