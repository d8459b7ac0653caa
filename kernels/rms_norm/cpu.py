"""In C. Supports bfloat16 rows and fp32 weights, both contiguous."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kernels.native.compiler import Compiler

__all__ = ["build"]


def build(compiler: Compiler) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """(rms_norm, add_rms_norm)"""
    function = compiler.load(Path(__file__).with_name("cpu.c")).rms_norm
    function.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_float] + [ctypes.c_int64] * 3
    function.restype = None

    def run(x: Tensor, residual: int | None, weight_M: Tensor, eps: float) -> Tensor:
        out = torch.empty_like(x)
        dim = x.shape[-1]
        pointers = (x.data_ptr(), residual, weight_M.data_ptr(), out.data_ptr())
        function(*pointers, eps, x.numel() // dim, dim, torch.get_num_threads())
        return out

    def rms_norm(x: Tensor, weight_M: Tensor, eps: float) -> Tensor:
        return run(x, None, weight_M, eps)

    def add_rms_norm(x: Tensor, residual: Tensor, weight_M: Tensor, eps: float) -> Tensor:
        return run(x, residual.data_ptr(), weight_M, eps)

    return rms_norm, add_rms_norm
