"""Hands out a model's tensors by their hub names, each once, and accounts for all of them."""

import json
import sys
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from engine.checkpoint.arch import ModelArch, arch_from_hub
from engine.checkpoint.gguf_arch import arch_from_gguf
from engine.checkpoint.gguf_file import read_index
from engine.checkpoint.matrix import Matrix
from engine.checkpoint.packings import packing_of
from engine.checkpoint.source import ModelFiles
from engine.errors import ModelError
from engine.tensor_parallel import Part
from kernels.quantised_linear.reference import GroupedInts

__all__ = ["TensorSource", "Weights", "open_weights", "read_arch"]


class TensorSource(Protocol):
    def names(self) -> set[str]: ...

    def read(self, name: str, part: Part | None = None) -> Tensor: ...

    def read_matrix(self, name: str, part: Part | None = None) -> Matrix:
        """The same, in integers if that is how it is kept."""
        ...

    def shape(self, name: str) -> tuple[int, ...]: ...


class Weights:
    """Takes tensors from a source, one at a time, so that never more than one is held twice. `dtype` is the model's."""

    def __init__(
        self,
        source: TensorSource,
        dtype: torch.dtype,
        device: torch.device,
        keeps_ints: bool = False,
        says_nothing: Callable[[str], bool] = lambda name: False,
    ) -> None:
        """keeps_ints     quantised matrices stay so; else they are widened to `dtype`
        says_nothing   whether a tensor may be left over
        """
        self._source = source
        self._says_nothing = says_nothing
        self._keeps_ints = keeps_ints
        self.dtype = dtype
        self._device = device
        self._left = source.names()
        # the bar is for people: a log would only fill up
        self._bar = tqdm(total=len(self._left), desc="weights", unit="tensor", disable=not sys.stderr.isatty())

    def take(self, name: str, *shape: int, dtype: torch.dtype | None = None, part: Part | None = None) -> Tensor:
        """A tensor that must be there, in this shape, or a part of it.

        `dtype` other than the model's for the few that need it.
        """
        self._tick_off(name, shape)
        return self._source.read(name, part).to(self._device, dtype or self.dtype)

    def take_matrix(self, name: str, *shape: int, part: Part | None = None) -> Matrix:
        """The same of a linear layer."""
        if not self._keeps_ints:
            return self.take(name, *shape, part=part)
        self._tick_off(name, shape)
        matrix = self._source.read_matrix(name, part)
        return matrix.to(self._device, self.dtype) if isinstance(matrix, Tensor) else matrix.to(self._device)

    def ints_again(self, name: str, part: Part | None = None) -> GroupedInts | None:
        """A matrix that was taken as a tensor, as integers; None where it is not kept so."""
        matrix = self._source.read_matrix(name, part) if self._keeps_ints else None
        return matrix.to(self._device) if isinstance(matrix, GroupedInts) else None

    def _tick_off(self, name: str, shape: tuple[int, ...]) -> None:
        if name not in self._left:
            raise ModelError(f"the weights lack {name}")
        self._left.remove(name)
        found = self._source.shape(name)
        if found != shape:
            raise ModelError(f"{name} has the shape {list(found)}, the model's config says {list(shape)}")
        self._bar.update()

    def has(self, name: str) -> bool:
        return name in self._left

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(name)

    def finish(self, tied: bool) -> None:
        """Raises ModelError for tensors that nobody took: they would change what the model says."""
        self._bar.close()
        left = {name for name in self._left if not name.endswith("rotary_emb.inv_freq")}  # computed from the config
        if tied:
            left.discard("lm_head.weight")  # a copy of the embedding
        left = {name for name in left if not self._says_nothing(name)}
        if left:
            few = ", ".join(sorted(left)[:5])
            raise ModelError(f"the weights have {len(left)} tensors that this architecture does not know: {few}")


def read_arch(files: ModelFiles) -> ModelArch:
    if files.kind == "gguf":
        pairs, infos = read_index(files.path)
        return arch_from_gguf(pairs, {info.name: info.shape for info in infos})
    return arch_from_hub(_config(files))


def _config(files: ModelFiles) -> dict[str, Any]:
    path = files.path / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: not a JSON object")
    return config


def open_weights(
    files: ModelFiles, arch: ModelArch, dtype: torch.dtype, device: torch.device, keeps_ints: bool = False
) -> Weights:
    from engine.checkpoint.other_names import UsualNames

    if files.kind == "gguf":
        from engine.checkpoint.gguf_weights import GgufSource

        return Weights(_unfused(GgufSource(files.path, arch), arch), dtype, device, keeps_ints)
    from engine.checkpoint.quantised_weights import QuantisedSource
    from engine.checkpoint.safetensors_weights import SafetensorsSource
    from engine.checkpoint.stacked_experts import SeparateExperts

    quantisation = _config(files).get("quantization_config")
    if arch.stacked_experts and (quantisation or {}).get("quant_method") == "mxfp4":
        quantisation = None  # of experts alone: SeparateExperts knows it
    packing = packing_of(quantisation) if quantisation else None  # complains before anything is opened
    plain: TensorSource = UsualNames(SafetensorsSource(files.path))
    if arch.stacked_experts:
        plain = SeparateExperts(plain)
    if packing is None:
        return Weights(_unfused(plain, arch), dtype, device, keeps_ints)
    source = QuantisedSource(plain, packing, device)
    return Weights(_unfused(source, arch), dtype, device, keeps_ints, source.is_bias_of_zeros)


def _unfused(source: TensorSource, arch: ModelArch) -> TensorSource:
    from engine.checkpoint.fused_weights import Unfused
    from engine.checkpoint.neighbour_rows import Halves

    unfused = Unfused(source, arch)
    return Halves(unfused, arch) if arch.pairs_neighbours else unfused
