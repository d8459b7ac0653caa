"""MiniMax's models."""

import msgspec

from engine.arch import gguf_config as gguf
from engine.arch.families.mistral import MIXTRAL_NAMES
from engine.arch.feed_forward_spec import Router
from engine.arch.hub_config import Config, HubFamily, attention, decoder, experts
from engine.arch.layer_spec import NormedResidual
from engine.arch.mixer_spec import LightningAttention
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

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


def _minimax(config: Config) -> ModelArch:
    """MiniMax-Text-01 and M1 (arXiv 2501.08313): mostly lightning attention."""
    if config.get("rotary_dim"):
        config = {**config, "partial_rotary_factor": config["rotary_dim"] / config["head_dim"]}
    router = Router(
        num_experts=config["num_local_experts"], experts_per_token=config["num_experts_per_tok"], renormalizes=True
    )
    full = attention(config, sliding_window=config.get("sliding_window") or 0)
    count = config["num_hidden_layers"]
    is_linear = [kind == "linear_attention" for kind in config.get("layer_types") or _alternating(count)]
    lightning = [
        LightningAttention(
            num_heads=full.num_heads, head_dim=full.head_dim, decay=1 - layer / (count - 1 + 1e-5) + 1e-5
        )
        for layer in range(count)
    ]
    mixers = [one if linear else full for one, linear in zip(lightning, is_linear, strict=True)]
    arch = decoder(config, mixers, experts(config, router, config["intermediate_size"]))
    pairs = zip(arch.layers, is_linear, strict=True)
    layers = tuple(msgspec.structs.replace(one, normed_residual=_residual(config, linear)) for one, linear in pairs)
    return msgspec.structs.replace(arch, layers=layers)


def _minimax_m1(config: Config) -> ModelArch:
    """The same under the names of MiniMax's own releases; transformers' conversions of them say `minimax`."""
    if not config.get("postnorm"):
        raise ModelError("postnorm is not supported as false; it must be true")
    shared = config.get("shared_intermediate_size") or 0
    if any(shared) if isinstance(shared, list) else shared:
        raise ModelError("shared_intermediate_size is not supported; it must be 0")
    factors = {
        f"{ours}_{which}_factor": config.get(f"layernorm_{theirs}_{which}", 1.0)
        for ours, theirs in (
            ("linear_attn", "linear_attention"),
            ("full_attn", "full_attention"),
            ("mlp", "mlp"),
        )
        for which in ("alpha", "beta")
    }
    kinds = ["full_attention" if is_full else "linear_attention" for is_full in config["attn_type_list"]]
    return _minimax({**config, **factors, "layer_types": kinds})


def _alternating(count: int) -> list[str]:
    return ["linear_attention" if layer % 2 else "full_attention" for layer in range(count)]


def _residual(config: Config, is_linear: bool) -> NormedResidual:
    kind = "linear" if is_linear else "full"
    names = (f"{kind}_attn_alpha", f"{kind}_attn_beta", "mlp_alpha", "mlp_beta")
    return NormedResidual(*(float(config.get(f"{name}_factor", 1.0)) for name in names))


HUB = {
    "minimax": HubFamily(
        _minimax, {"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1_000_000.0}, MIXTRAL_NAMES
    ),
    "minimax_text_01": HubFamily(_minimax_m1, names=MIXTRAL_NAMES),
    "minimax_m1": HubFamily(_minimax_m1, names=MIXTRAL_NAMES),
    "minimax_m2": HubFamily(
        _minimax_m2,
        {"head_dim": 128, "rope_theta": 5_000_000.0, "num_key_value_heads": 8},
        {".block_sparse_moe.e_score_correction_bias": ".mlp.gate.e_score_correction_bias", **MIXTRAL_NAMES},
    ),
}


# -- GGUF


def _gguf_minimax_m2(file: gguf.Metadata) -> ModelArch:
    qk_norm = "whole" if "blk.0.attn_q_norm.weight" in file.shapes else ""
    return gguf.decoder(file, gguf.attention(file, qk_norm=qk_norm), gguf.experts(file, renormalizes=True))


GGUF = {"minimax-m2": gguf.GgufFamily(_gguf_minimax_m2)}
