"""A linear layer of each head's own: [T, H, I] -> [T, H, O]. The reference."""

from collections.abc import Callable

import torch
from torch import Tensor

from kernels.linear.reference import Linear

__all__ = ["HeadLinear"]


class HeadLinear:
    """x[:, h] @ weight[h].T for each head."""

    def __init__(self, weight_HOI: Tensor, linear: Callable[[Tensor], Callable[[Tensor], Tensor]] = Linear) -> None:
        """`linear` is any implementation of kernels/linear."""
        self._heads = [linear(weight_OI.contiguous()) for weight_OI in weight_HOI]

    def __call__(self, x_THI: Tensor) -> Tensor:
        """[T, H, O] in x's dtype, of [T, H, I] with any strides. A row's result depends on other rows as that of
        kernels/linear does.
        """
        return torch.stack([head(x_THI[:, h].contiguous()) for h, head in enumerate(self._heads)], 1)
