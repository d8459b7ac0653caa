"""Stability AI's StableLM 2 models."""

from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, layer_norm
from engine.arch.layer_spec import Norms
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["HUB"]


def _stablelm(config: Config) -> ModelArch:
    if config.get("qk_layernorm"):
        raise ModelError("qk_layernorm is not supported: a LayerNorm of its own for each head")
    mixer = attention(config, qkv_bias=config.get("use_qkv_bias", False))
    norms: Norms = "parallel" if config.get("use_parallel_residual") else "before"
    return decoder(config, mixer, dense(config), norms, **layer_norm(config["layer_norm_eps"]))


HUB = {"stablelm": HubFamily(_stablelm, {"partial_rotary_factor": 0.25, "layer_norm_eps": 1e-5})}
