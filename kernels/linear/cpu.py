"""Linear layers in bfloat16 on CPU, in C: the weight packed once, every row summed alone and in order.

Supports bfloat16 weights only.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.native.compiler import Compiler

__all__ = ["build"]

PANEL = 64  # outputs that are packed together


def build(compiler: Compiler) -> Callable[..., "Linear"]:
    library = compiler.load(Path(__file__).with_name("cpu.c"))
    library.linear.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 5
    library.linear.restype = None
    library.use_large_pages.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    library.use_large_pages.restype = None

    def linear(weight_OI: Tensor, bias_O: Tensor | None = None, out_dtype: torch.dtype | None = None) -> "Linear":
        return Linear(library, weight_OI, bias_O, out_dtype or weight_OI.dtype)

    return linear


class Linear:
    def __init__(self, library: ctypes.CDLL, weight_OI: Tensor, bias_O: Tensor | None, out_dtype: torch.dtype) -> None:
        self._function = library.linear
        self._num_out, self._num_in = weight_OI.shape
        self._odd = self._num_in % 2
        padded = pad(weight_OI, (0, self._odd, 0, -self._num_out % PANEL))
        # [O, I] -> [panels, I / 2, 64, 2]
        panels = padded.view(-1, PANEL, padded.shape[1] // 2, 2).transpose(1, 2)
        self._weight = torch.empty(panels.shape, dtype=panels.dtype)
        library.use_large_pages(self._weight.data_ptr(), self._weight.nbytes)
        self._weight.copy_(panels)
        self._bias = None if bias_O is None else bias_O.float()
        self._out_dtype = out_dtype

    def __call__(self, x_TI: Tensor) -> Tensor:
        if self._odd:
            x_TI = pad(x_TI, (0, 1))
        x_TI = x_TI.contiguous()
        out_TO = torch.empty((x_TI.shape[0], self._num_out), dtype=self._out_dtype)
        self._function(
            x_TI.data_ptr(),
            self._weight.data_ptr(),
            None if self._bias is None else self._bias.data_ptr(),
            out_TO.data_ptr(),
            self._out_dtype == torch.float32,
            x_TI.shape[0],
            x_TI.shape[1],
            self._num_out,
            torch.get_num_threads(),
        )
        return out_TO
