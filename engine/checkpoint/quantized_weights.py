"""Weights of a quantized hub model (GPTQ, AWQ, FP8, ...) under the names of the unquantized one."""

import torch
from torch import Tensor

from engine.checkpoint.matrix import Matrix, cut
from engine.checkpoint.shard import Shard
from engine.checkpoint.tensor_source import TensorSource
from engine.checkpoint.weight_formats import WeightFormat
from engine.errors import ModelError
from kernels.quantized_linear.reference import GroupQuantized

__all__ = ["QuantizedSource"]


class QuantizedSource:
    """Reads matrices whole, unpacks them on the device, then cuts shards."""

    def __init__(self, files: TensorSource, weight_format: WeightFormat, device: torch.device) -> None:
        self._device = device
        self._files = files
        self._weight_format = weight_format
        self._kept = files.names()
        mains = {
            name.removesuffix(f".{main}"): name
            for main in weight_format.main
            for name in self._kept
            if name.endswith(f".{main}")
        }
        self._mains = {f"{stem}.weight": main for stem, main in mains.items()}
        self._belonging = {f"{stem}.{part}" for stem in mains for part in weight_format.parts}

    def names(self) -> set[str]:
        return self._kept - self._belonging | set(self._mains)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._mains:
            return self._files.shape(name)
        main = self._mains[name]
        found = self._weight_format.shape(main, self._files.shape(main))
        return self._files.shape(name) if found is None else found

    def read(self, name: str, part: Shard | None = None) -> Tensor:
        if name not in self._mains:
            return self._files.read(name, part)
        matrix = cut(self._whole(name), part)
        return matrix.dense() if isinstance(matrix, GroupQuantized) else matrix

    def read_matrix(self, name: str, part: Shard | None = None) -> Matrix:
        return self._files.read(name, part) if name not in self._mains else cut(self._whole(name), part)

    def is_bias_of_zeros(self, name: str) -> bool:
        """Whether a tensor is a bias of zeros, which quantizers add to matrices that have none."""
        return name.endswith(".bias") and not self._files.read(name).any()

    def _whole(self, name: str) -> Matrix:
        stem = name.removesuffix(".weight")

        def read(part: str) -> Tensor:
            if f"{stem}.{part}" not in self._kept:
                raise ModelError(f"the quantized weights lack {stem}.{part}")
            return self._files.read(f"{stem}.{part}").to(self._device)

        return self._weight_format.read(read, lambda part: f"{stem}.{part}" in self._kept)
