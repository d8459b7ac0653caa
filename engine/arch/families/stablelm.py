"""Stability AI's StableLM 2 models."""

from engine.arch import gguf_config as gguf
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, layer_norm
from engine.arch.layer_spec import Norms
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["GGUF", "HUB"]


def _stablelm(config: Config) -> ModelArch:
    if config.get("qk_layernorm"):
        raise ModelError("qk_layernorm is not supported: a LayerNorm of its own for each head")
    mixer = attention(config, qkv_bias=config.get("use_qkv_bias", False))
    norms: Norms = "parallel" if config.get("use_parallel_residual") else "before"
    return decoder(config, mixer, dense(config), norms, **layer_norm(config["layer_norm_eps"]))


HUB = {"stablelm": HubFamily(_stablelm, {"partial_rotary_factor": 0.25, "layer_norm_eps": 1e-5})}


# -- GGUF


def _gguf_stablelm(file: gguf.Metadata) -> ModelArch:
    if "blk.0.attn_q_norm.weight" in file.shapes:
        raise ModelError("attn_q_norm is not supported: a LayerNorm of its own for each head")
    norms: Norms = "before" if "blk.0.ffn_norm.weight" in file.shapes else "parallel"
    return gguf.decoder(file, gguf.attention(file), gguf.dense(file), norms, **gguf.layer_norm(file))


GGUF = {"stablelm": gguf.GgufFamily(_gguf_stablelm)}
