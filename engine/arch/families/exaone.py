"""LG's EXAONE models."""

import msgspec

from engine.arch import gguf_config as gguf
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, windowed, windows
from engine.arch.model_arch import ModelArch

__all__ = ["GGUF", "HUB"]


def _exaone4(config: Config) -> ModelArch:
    """Where layers have sliding windows, those with full attention are NoPE layers."""
    full = attention(config, qk_norm="head")
    sizes = windows(config, 4)
    if config.get("sliding_window"):
        return decoder(
            config, windowed(msgspec.structs.replace(full, rope=None), sizes, full.rope), dense(config), "after"
        )
    return decoder(config, full, dense(config), "after")


HUB = {"exaone4": HubFamily(_exaone4)}


# -- GGUF


def _gguf_exaone4(file: gguf.Metadata) -> ModelArch:
    full, sizes = gguf.attention(file), gguf.windows(file, 4)
    if any(sizes):
        mixers = gguf.windowed(msgspec.structs.replace(full, rope=None), sizes, full.rope)
        return gguf.decoder(file, mixers, gguf.dense(file), "after")
    return gguf.decoder(file, full, gguf.dense(file), "after")


GGUF = {"exaone4": gguf.GgufFamily(_gguf_exaone4)}
