"""Arcee's Trinity models."""

import msgspec

from engine.arch.families.deepseek import dense_first
from engine.arch.hub_config import Config, HubFamily, attention, decoder, windowed, windows
from engine.arch.mixer_spec import OutputGate
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
    names = {
        "n_routed_experts": config["num_experts"],
        "n_shared_experts": config["num_shared_experts"],
        "routed_scaling_factor": config["route_scale"],
        "first_k_dense_replace": config["num_dense_layers"],
    }
    scale = config["hidden_size"] ** 0.5 if config.get("mup_enabled") else 1.0
    return decoder(config, mixers, dense_first({**config, **names}), "around", embedding_scale=scale)


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
