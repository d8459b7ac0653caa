"""In C. Supports bfloat16, contiguous."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kernels.native.compiler import Compiler

__all__ = ["build"]


def build(compiler: Compiler) -> Callable[[Tensor], Tensor]:
    function = compiler.load(Path(__file__).with_name("cpu.c")).gated_activation
    function.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 3
    function.restype = None

    def gated_activation(gate_up_TF: Tensor) -> Tensor:
        num_rows, width = gate_up_TF.shape
        out_TF = torch.empty((num_rows, width // 2), dtype=gate_up_TF.dtype)
        function(gate_up_TF.data_ptr(), out_TF.data_ptr(), num_rows, width // 2, torch.get_num_threads())
        return out_TF

    return gated_activation
