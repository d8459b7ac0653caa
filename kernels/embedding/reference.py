"""Token embedding: from token ids to the vectors that the first layer reads. The reference."""

from torch import Tensor

__all__ = ["embedding"]


def embedding(weight_VM: Tensor, tokens_T: Tensor) -> Tensor:
    """[T, M], the rows of weight_VM that tokens_T [T] int64 name."""
    return weight_VM[tokens_T]
