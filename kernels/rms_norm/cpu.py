"""RMSNorm in C. Supports bfloat16 rows and fp32 weights; everything contiguous."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kernels.native.compiler import Compiler

__all__ = ["build"]


def build(compiler: Compiler) -> Callable[..., Tensor]:
    """add_rms_norm"""
    function = compiler.load(Path(__file__).with_name("cpu.c")).add_rms_norm
    function.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_float] * 2 + [ctypes.c_int64] * 3
    function.restype = None

    def add_rms_norm(
        x: Tensor,
        residual: Tensor,
        weight_M: Tensor | None,
        eps: float,
        x_weight_M: Tensor | None = None,
        x_scale: float = 1.0,
    ) -> Tensor:
        out = torch.empty_like(x)
        dim = x.shape[-1]
        function(
            x.data_ptr(),
            residual.data_ptr(),
            None if weight_M is None else weight_M.data_ptr(),
            None if x_weight_M is None else x_weight_M.data_ptr(),
            out.data_ptr(),
            eps,
            x_scale,
            x.numel() // dim,
            dim,
            torch.get_num_threads(),
        )
        return out

    return add_rms_norm
