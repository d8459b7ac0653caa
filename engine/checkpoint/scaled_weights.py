"""Factors that a model has between its layers (µP), multiplied into the weights of the matrix before or behind them."""

from torch import Tensor

from engine.arch.model_arch import ModelArch
from engine.checkpoint.matrix import Matrix
from engine.checkpoint.shard import Shard
from engine.checkpoint.tensor_source import TensorSource

__all__ = ["ScaledWeights"]


class ScaledWeights:
    """Scales the weights that the architecture names; other tensors pass unchanged."""

    def __init__(self, source: TensorSource, arch: ModelArch) -> None:
        self._source = source
        self._scales = dict(arch.weight_scales)

    def names(self) -> set[str]:
        return self._source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(name)

    def read(self, name: str, part: Shard | None = None) -> Tensor:
        tensor, factor = self._source.read(name, part), self._factor(name)
        return tensor if factor == 1.0 else (tensor.float() * factor).to(tensor.dtype)

    def read_matrix(self, name: str, part: Shard | None = None) -> Matrix:
        matrix, factor = self._source.read_matrix(name, part), self._factor(name)
        if factor == 1.0:
            return matrix
        if isinstance(matrix, Tensor):
            return (matrix.float() * factor).to(matrix.dtype)
        return matrix.scaled(factor)

    def _factor(self, name: str) -> float:
        """Of a name such as model.layers.3.self_attn.k_proj.weight."""
        return self._scales.get(name.split(".", 3)[-1].removesuffix(".weight"), 1.0)
