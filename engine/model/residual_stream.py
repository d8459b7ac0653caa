"""The residual stream: the sum of what a decoder's layers give, which each of their parts reads through a norm."""

from typing import Protocol

import torch
from torch import Tensor

from engine.arch.model_arch import ModelArch
from kernels.kernel_set import KernelSet
from kernels.layer_norm.reference import add_layer_norm

__all__ = ["ResidualStream", "Stream"]


class Stream(Protocol):
    """What layers read and write: a residual stream, or several."""

    def select(self, rows_R: Tensor) -> None: ...

    def norm(self, weight_M: Tensor, bias_M: Tensor | None = None) -> Tensor: ...


class ResidualStream:
    """In fp32: 60 sums in bfloat16 would decide near ties by rounding. What was added last is pending until the next
    norm, whose kernel adds it up.
    """

    def __init__(self, arch: ModelArch, kernels: KernelSet, x_TM: Tensor, scale: float = 1.0) -> None:
        """Begins as scale * x."""
        self._arch, self._kernels = arch, kernels
        self._sum_TM = torch.zeros_like(x_TM, dtype=torch.float32)
        self._deferred_TM: Tensor | None = None
        self.add(x_TM, None, scale)

    @classmethod
    def of_sum(cls, arch: ModelArch, kernels: KernelSet, sum_TM: Tensor, dtype: torch.dtype) -> "ResidualStream":
        """Begins as a sum in fp32, which it writes to; `dtype` is the model's."""
        stream = cls(arch, kernels, torch.zeros_like(sum_TM, dtype=dtype))
        stream._sum_TM = sum_TM
        return stream

    def total(self) -> Tensor:
        """[T, M] fp32: the sum, with what is pending. The stream ends with it."""
        self.norm(None)
        return self._sum_TM

    def add(self, x_TM: Tensor, weight_M: Tensor | None = None, scale: float = 1.0) -> None:
        """Adds scale * x, or of the norm of x with these weights. After that comes `norm` before any other."""
        self._x_TM, self._weight_M, self._scale = x_TM, weight_M, scale

    def norm(self, weight_M: Tensor | None, bias_M: Tensor | None = None) -> Tensor:
        """[T, M] in the model's dtype: the norm of the sum, without weights the sum itself. `bias_M`: LayerNorm's."""
        x_TM, eps = self._x_TM, self._arch.norm_eps
        if self._arch.norm == "layer":
            assert self._weight_M is None
            return add_layer_norm(x_TM, self._sum_TM, weight_M, bias_M, eps, self._scale)
        return self._kernels.add_rms_norm(x_TM, self._sum_TM, weight_M, eps, self._weight_M, self._scale)

    def norm_again(self, weight_M: Tensor, bias_M: Tensor | None) -> Tensor:
        """Another norm of the sum that `norm` was called for."""
        self.add(torch.zeros_like(self._x_TM))
        return self.norm(weight_M, bias_M)

    def restart(self, x_TM: Tensor, factor: float) -> None:
        """Begins again as factor * x; nothing may be pending."""
        self._sum_TM = x_TM.float() * factor

    def defer(self, x_TM: Tensor | None) -> Tensor | None:
        """Keeps what the next layer is to add, and returns what this one is; None: nothing."""
        x_TM, self._deferred_TM = self._deferred_TM, x_TM
        return x_TM

    def multiply(self, factor: float) -> None:
        """Multiplies the sum, with what is pending."""
        self._sum_TM *= factor
        self._scale *= factor

    def select(self, rows_R: Tensor) -> None:
        """Keeps these rows alone."""
        self._x_TM, self._sum_TM = self._x_TM[rows_R], self._sum_TM[rows_R]
