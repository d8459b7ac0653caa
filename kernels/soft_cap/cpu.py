"""Logit soft capping in C. Contiguous."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kernels.native.compiler import Compiler

__all__ = ["build"]


def build(compiler: Compiler) -> Callable[..., Tensor]:
    function = compiler.load(Path(__file__).with_name("cpu.c")).soft_cap
    function.argtypes = [ctypes.c_void_p, ctypes.c_float, ctypes.c_int64, ctypes.c_int64]
    function.restype = None

    def soft_cap(logits_RV: Tensor, cap: float) -> Tensor:
        assert logits_RV.dtype == torch.float32 and logits_RV.is_contiguous()
        function(logits_RV.data_ptr(), cap, logits_RV.numel(), torch.get_num_threads())
        return logits_RV

    return soft_cap
