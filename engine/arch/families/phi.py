"""Microsoft's Phi models."""

from engine.arch import gguf_config as gguf
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, windowed, windows
from engine.arch.model_arch import ModelArch

__all__ = ["GGUF", "HUB"]


def _phi3(config: Config) -> ModelArch:
    """Its fused matrices: engine/checkpoint/fused_weights.py."""
    return decoder(config, windowed(attention(config), windows(config, 0)), dense(config))


HUB = {"phi3": HubFamily(_phi3)}


# -- GGUF


def _gguf_phi3(file: gguf.Metadata) -> ModelArch:
    return gguf.decoder(file, gguf.windowed(gguf.attention(file), gguf.windows(file)), gguf.dense(file))


GGUF = {"phi3": gguf.GgufFamily(_gguf_phi3, {"ffn_up": "mlp.gate_up_proj"})}
