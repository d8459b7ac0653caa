"""The weights of one decoder layer, by their names within it, and what else its parts are built from."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from engine.arch.model_arch import ModelArch
from engine.checkpoint.shard import Shard
from engine.checkpoint.weights import Weights
from engine.model.linears import Linears
from engine.parallel.tensor_parallel import TensorParallel
from kernels.kernel_set import KernelSet

__all__ = ["LayerWeights"]


@dataclass(frozen=True)
class LayerWeights:
    """`arch` is the whole model's; this rank (`tp`) holds its shard."""

    arch: ModelArch
    weights: Weights
    kernels: KernelSet
    index: int
    tp: TensorParallel

    @property
    def at(self) -> str:
        """The layer's prefix among the weights."""
        return f"model.layers.{self.index}"

    @cached_property
    def linears(self) -> Linears:
        return Linears(self.weights, self.kernels, self.at, self.tp)

    def take(self, name: str, *shape: int, dtype: torch.dtype | None = None, part: Shard | None = None) -> Tensor:
        """As Weights.take."""
        return self.weights.take(f"{self.at}.{name}", *shape, dtype=dtype, part=part)

    def take_norm(self, name: str, size: int, part: Shard | None = None) -> Tensor:
        """A norm's weights in fp32, the architecture's offset added; ones where the model's norms have none."""
        if not self.arch.norm_parameters:
            return torch.ones(size if part is None else part.stop - part.start, device=self.weights.device)
        weight = self.take(f"{name}.weight", size, dtype=torch.float32, part=part)
        return weight + self.arch.norm_offset if self.arch.norm_offset else weight
