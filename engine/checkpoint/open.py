"""Opens a checkpoint: the model architecture, and its weights as a stack of sources under the hub's names."""

import json
from functools import partial
from typing import Any

import torch

from engine.arch.gguf import arch_from_gguf
from engine.arch.hub import arch_from_hub, hub_family
from engine.arch.model_arch import ModelArch
from engine.checkpoint.fused_weights import Unfused
from engine.checkpoint.gguf_file import read_index
from engine.checkpoint.gguf_latent_heads import JoinedLatentHeads
from engine.checkpoint.gguf_weights import GgufSource
from engine.checkpoint.interleaved_rows import HalfRotatedRows
from engine.checkpoint.quantized_weights import QuantizedSource
from engine.checkpoint.renamed_weights import CanonicalNames
from engine.checkpoint.safetensors_weights import SafetensorsSource
from engine.checkpoint.scaled_weights import ScaledWeights
from engine.checkpoint.source import ModelFiles
from engine.checkpoint.split_rows import SplitRows
from engine.checkpoint.stacked_experts import SeparateExperts
from engine.checkpoint.tensor_source import TensorSource
from engine.checkpoint.unread_weights import is_unread
from engine.checkpoint.weight_cache import WeightCache
from engine.checkpoint.weight_formats import weight_format_of
from engine.checkpoint.weights import Weights
from engine.errors import ModelError

__all__ = ["open_weights", "read_arch"]


def read_arch(files: ModelFiles) -> ModelArch:
    if files.kind == "gguf":
        pairs, infos = read_index(files.path)
        return arch_from_gguf(pairs, {info.name: info.shape for info in infos})
    return arch_from_hub(_config(files))


def open_weights(
    files: ModelFiles,
    arch: ModelArch,
    dtype: torch.dtype,
    device: torch.device,
    keeps_ints: bool = False,
    cache: WeightCache | None = None,
) -> Weights:
    if files.kind == "gguf":
        file = CanonicalNames(JoinedLatentHeads(GgufSource(files.path, arch)), {}, arch.num_layers)
        return Weights(_unfused(file, arch), dtype, device, keeps_ints, partial(is_unread, arch), cache)
    config = _config(files)
    family, quantization = hub_family(config), config.get("quantization_config")
    if family.expert_stacks and (quantization or {}).get("quant_method") == "mxfp4":
        quantization = None  # of experts alone: SeparateExperts reads it
    weight_format = weight_format_of(quantization, dtype) if quantization else None  # raises before any file is opened
    plain: TensorSource = CanonicalNames(
        SafetensorsSource(files.path), family.names, arch.num_layers, family.layers_in_one
    )
    if family.expert_stacks:
        plain = SeparateExperts(plain, device, family.expert_stacks)
    if weight_format is None:
        return Weights(_unfused(plain, arch), dtype, device, keeps_ints, partial(is_unread, arch), cache)
    source = QuantizedSource(plain, weight_format, device)

    def may_be_unused(name: str) -> bool:
        return is_unread(arch, name) or source.is_bias_of_zeros(name)

    return Weights(_unfused(source, arch), dtype, device, keeps_ints, may_be_unused, cache)


def _config(files: ModelFiles) -> dict[str, Any]:
    path = files.path / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: not a JSON object")
    return config


def _unfused(source: TensorSource, arch: ModelArch) -> TensorSource:
    unfused: TensorSource = SplitRows(Unfused(source, arch), arch)
    if arch.weight_scales:
        unfused = ScaledWeights(unfused, arch)
    return HalfRotatedRows(unfused, arch) if arch.interleaved_rope else unfused
