"""The grammar mask (allow_bits) in C, for contiguous fp32 logits on CPU. The other masks touch few logits."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kernels.native.compiler import Compiler

__all__ = ["build"]


def build(compiler: Compiler) -> Callable[[Tensor, Tensor], Tensor]:
    """allow_bits"""
    function = compiler.load(Path(__file__).with_name("cpu.c")).allow_bits
    function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 2
    function.restype = None

    def allow_bits(logits_RV: Tensor, bits_RW: Tensor) -> Tensor:
        logits_RV, bits_RW = logits_RV.contiguous(), bits_RW.contiguous()
        out_RV = torch.empty_like(logits_RV)
        function(logits_RV.data_ptr(), bits_RW.data_ptr(), out_RV.data_ptr(), *logits_RV.shape)
        return out_RV

    return allow_bits
