"""Ai2's OLMo models."""

from engine.arch import gguf_config as gguf
from engine.arch.families.llama import biases
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, experts, window_rope, windowed, windows
from engine.arch.layer_spec import Router, SelfAttention
from engine.arch.model_arch import ModelArch
from engine.arch.rope import Rope
from engine.errors import ModelError

__all__ = ["GGUF", "HUB"]


def _olmo2(config: Config) -> ModelArch:
    return decoder(config, windowed(_attention(config), windows(config)), dense(config), "after")


def _olmo3(config: Config) -> ModelArch:
    full = _attention(config)
    assert full.rope is not None
    rope = window_rope(config, full.rope.dim, config["rope_theta"])
    return decoder(config, windowed(full, windows(config, 4), rope), dense(config), "after")


def _olmoe(config: Config) -> ModelArch:
    if config.get("clip_qkv") is not None:
        raise ModelError("clip_qkv is not supported; it must be null")
    router = Router(
        num_experts=config["num_experts"],
        experts_per_token=config["num_experts_per_tok"],
        renormalizes=config.get("norm_topk_prob", False),
    )
    return decoder(config, _attention(config), experts(config, router, config["intermediate_size"]))


def _flex_olmo(config: Config) -> ModelArch:
    """FlexOlmo: OLMo 2 with experts in the place of its MLPs."""
    router = Router(
        num_experts=config["num_experts"],
        experts_per_token=config["num_experts_per_tok"],
        renormalizes=config.get("norm_topk_prob", False),
    )
    return decoder(config, _attention(config), experts(config, router, config["intermediate_size"]), "after")


def _attention(config: Config) -> SelfAttention:
    return attention(config, **biases(config), qk_norm="whole")


HUB = {
    "olmo2": HubFamily(_olmo2),
    "olmo3": HubFamily(_olmo3, {"rope_theta": 500_000.0, "sliding_window": 4096}),
    "olmoe": HubFamily(_olmoe),
    "flex_olmo": HubFamily(_flex_olmo, {"rope_theta": 500_000.0}),
}


# -- GGUF


def _gguf_olmo2(file: gguf.Metadata) -> ModelArch:
    """OLMo 3 files too, whose sliding-window layers have no RoPE scaling."""
    full = gguf.attention(file, qk_norm="whole")
    assert full.rope is not None
    rope = Rope(full.rope.theta, full.rope.dim)
    return gguf.decoder(file, gguf.windowed(full, gguf.windows(file, 4), rope), gguf.dense(file), "after")


def _gguf_olmoe(file: gguf.Metadata) -> ModelArch:
    return gguf.decoder(file, gguf.attention(file, qk_norm="whole"), gguf.experts(file, renormalizes=False))


GGUF = {"olmo2": gguf.GgufFamily(_gguf_olmo2), "olmoe": gguf.GgufFamily(_gguf_olmoe)}
