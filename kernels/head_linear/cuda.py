"""A linear layer of each head's own, as one batched product (cuBLAS)."""

import torch
from torch import Tensor

__all__ = ["HeadLinear"]


class HeadLinear:
    """Not batch-invariant: the library chooses its kernel by the number of rows."""

    def __init__(self, weight_HOI: Tensor) -> None:
        self._weight_HIO = weight_HOI.transpose(1, 2)

    def __call__(self, x_THI: Tensor) -> Tensor:
        return torch.bmm(x_THI.transpose(0, 1), self._weight_HIO).transpose(0, 1)
