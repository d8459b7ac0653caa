"""The protocol of a checkpoint: tensors by name. Sources are stacked, each reads the one below it."""

from typing import Protocol

from torch import Tensor

from engine.checkpoint.matrix import Matrix
from engine.checkpoint.shard import Shard

__all__ = ["TensorSource"]


class TensorSource(Protocol):
    def names(self) -> set[str]: ...

    def read(self, name: str, part: Shard | None = None) -> Tensor: ...

    def read_matrix(self, name: str, part: Shard | None = None) -> Matrix:
        """A linear layer's weight, group-quantized if the checkpoint has it so."""
        ...

    def shape(self, name: str) -> tuple[int, ...]: ...
