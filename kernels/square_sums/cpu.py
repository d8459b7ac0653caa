"""Sums of squares in C. Supports bfloat16, contiguous."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kernels.native.compiler import Compiler

__all__ = ["build"]


def build(compiler: Compiler) -> Callable[..., Tensor]:
    function = compiler.load(Path(__file__).with_name("cpu.c")).square_sums
    function.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 5
    function.restype = None

    def square_sums(qkv_TX: Tensor, num_queries: int, num_keys: int) -> Tensor:
        num_rows, width = qkv_TX.shape
        out_T2 = torch.empty((num_rows, 2), dtype=torch.float32)
        sizes = (num_rows, width, num_queries, num_keys, torch.get_num_threads())
        function(qkv_TX.data_ptr(), out_T2.data_ptr(), *sizes)
        return out_T2

    return square_sums
