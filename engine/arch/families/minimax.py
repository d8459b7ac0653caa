"""MiniMax's models."""

from engine.arch import gguf_config as gguf
from engine.arch.families.mistral import MIXTRAL_NAMES
from engine.arch.hub_config import Config, HubFamily, attention, decoder, experts
from engine.arch.layer_spec import Router
from engine.arch.model_arch import ModelArch

__all__ = ["GGUF", "HUB"]


def _minimax_m2(config: Config) -> ModelArch:
    """Released checkpoints have the rotated dimensions in `rotary_dim`."""
    if config.get("rotary_dim"):
        config = {**config, "partial_rotary_factor": config["rotary_dim"] / config["head_dim"]}
    router = Router(
        num_experts=config["num_local_experts"],
        experts_per_token=config["num_experts_per_tok"],
        scoring="sigmoid",
        renormalizes=True,
        correction_bias=True,
    )
    qk_norm = "whole" if config.get("use_qk_norm", True) else ""
    return decoder(config, attention(config, qk_norm=qk_norm), experts(config, router, config["intermediate_size"]))


HUB = {
    "minimax_m2": HubFamily(
        _minimax_m2,
        {"head_dim": 128, "rope_theta": 5_000_000.0, "num_key_value_heads": 8},
        {".block_sparse_moe.e_score_correction_bias": ".mlp.gate.e_score_correction_bias", **MIXTRAL_NAMES},
    )
}


# -- GGUF


def _gguf_minimax_m2(file: gguf.Metadata) -> ModelArch:
    qk_norm = "whole" if "blk.0.attn_q_norm.weight" in file.shapes else ""
    return gguf.decoder(file, gguf.attention(file, qk_norm=qk_norm), gguf.experts(file, renormalizes=True))


GGUF = {"minimax-m2": gguf.GgufFamily(_gguf_minimax_m2)}
