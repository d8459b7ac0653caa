"""LG's EXAONE models."""

import msgspec

from engine.arch import gguf_config as gguf
from engine.arch.families.deepseek import dense_first
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, windowed, windows
from engine.arch.mixer_spec import SelfAttention
from engine.arch.model_arch import ModelArch

__all__ = ["GGUF", "HUB"]


def _exaone4(config: Config) -> ModelArch:
    """Where layers have sliding windows, those with full attention are NoPE layers."""
    return decoder(config, _mixers(config), dense(config), "after")


def _exaone_moe(config: Config) -> ModelArch:
    """K-EXAONE: EXAONE 4's attention, and DeepSeek-V3's experts."""
    names = {"n_routed_experts": config["num_experts"], "n_shared_experts": config["num_shared_experts"]}
    return decoder(config, _mixers(config), dense_first({**config, **names}))


def _mixers(config: Config) -> list[SelfAttention]:
    full = attention(config, qk_norm="head")
    if not config.get("sliding_window"):
        return [full] * config["num_hidden_layers"]
    return windowed(msgspec.structs.replace(full, rope=None), windows(config, 4), full.rope)


HUB = {
    "exaone4": HubFamily(_exaone4),
    "exaone_moe": HubFamily(
        _exaone_moe,
        {
            "rms_norm_eps": 1e-5,
            "sliding_window": 4096,
            "first_k_dense_replace": 1,
            "num_shared_experts": 1,
            "routed_scaling_factor": 2.5,
        },
        {".mlp.e_score_correction_bias": ".mlp.gate.e_score_correction_bias"},
    ),
}


# -- GGUF


def _gguf_exaone4(file: gguf.Metadata) -> ModelArch:
    full, sizes = gguf.attention(file), gguf.windows(file, 4)
    if any(sizes):
        mixers = gguf.windowed(msgspec.structs.replace(full, rope=None), sizes, full.rope)
        return gguf.decoder(file, mixers, gguf.dense(file), "after")
    return gguf.decoder(file, full, gguf.dense(file), "after")


GGUF = {"exaone4": gguf.GgufFamily(_gguf_exaone4)}
