"""Reads a GGUF file's metadata: finds the family, and has it describe the model."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from engine.arch.families import (
    cohere,
    deepseek,
    ernie,
    exaone,
    falcon,
    gemma,
    gemma3n,
    gemma4,
    glm,
    gpt_neox,
    gpt_oss,
    granite,
    hunyuan,
    kimi,
    lfm,
    llama,
    minicpm,
    minimax,
    mistral,
    nemotron,
    olmo,
    phi,
    qwen,
    stablelm,
    starcoder,
)
from engine.arch.gguf_config import GgufFamily, Metadata
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["GGUF_FAMILIES", "arch_from_gguf"]

GGUF_FAMILIES: Mapping[str, GgufFamily] = MappingProxyType(
    llama.GGUF
    | mistral.GGUF
    | qwen.GGUF
    | gemma.GGUF
    | gemma3n.GGUF
    | gemma4.GGUF
    | deepseek.GGUF
    | glm.GGUF
    | minimax.GGUF
    | gpt_oss.GGUF
    | lfm.GGUF
    | granite.GGUF
    | nemotron.GGUF
    | falcon.GGUF
    | phi.GGUF
    | olmo.GGUF
    | exaone.GGUF
    | cohere.GGUF
    | ernie.GGUF
    | hunyuan.GGUF
    | kimi.GGUF
    | gpt_neox.GGUF
    | minicpm.GGUF
    | stablelm.GGUF
    | starcoder.GGUF
)


def arch_from_gguf(pairs: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> ModelArch:
    """Reads a .gguf file's metadata; what that lacks follows from the names and shapes of its tensors."""
    family = pairs.get("general.architecture")
    if not isinstance(family, str) or family not in GGUF_FAMILIES:
        raise ModelError(f"architecture {family!r} is not supported; supported are {', '.join(GGUF_FAMILIES)}")
    sizes = {name.removeprefix(f"{family}."): value for name, value in pairs.items()}
    try:
        return GGUF_FAMILIES[family].read(Metadata(sizes, shapes))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelError(f"the .gguf file's metadata is not complete: {type(error).__name__} {error}") from error
