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
        """The same, in integers if that is how it is kept."""
        ...

    def shape(self, name: str) -> tuple[int, ...]: ...
