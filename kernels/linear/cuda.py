"""Linear layers by cuBLAS on a GPU, but for a single row; where fp32 is asked for, its sums come out as they are.

Rounded to bfloat16 on their way, logits of 16 and more would be eighths, and near ties would be equal.
"""

import torch
from torch import Tensor

from kernels.linear import reference
from kernels.linear.gemv_triton import gemv

__all__ = ["Linear"]


class Linear(reference.Linear):
    def __call__(self, x_TI: Tensor) -> Tensor:
        if len(x_TI) == 1 and x_TI.is_cuda and x_TI.dtype in (torch.bfloat16, torch.float16):
            return gemv(x_TI.contiguous(), self._weight_OI, self._bias_O, self._out_dtype)
        # torch has it for GPUs alone, and for these dtypes
        widens = self._out_dtype == torch.float32 and x_TI.dtype in (torch.bfloat16, torch.float16)
        if not widens or not x_TI.is_cuda:
            return super().__call__(x_TI)
        out_TO: Tensor = torch.mm(x_TI, self._weight_OI.T, out_dtype=torch.float32)
        return out_TO if self._bias_O is None else out_TO + self._bias_O
