"""Token embedding in C, for a contiguous weight. Tokens are not checked: the engine admits those of the vocabulary."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from kernels.native.compiler import Compiler
from kernels.operations import Embedding

__all__ = ["build"]


def build(compiler: Compiler) -> Embedding:
    function = compiler.load(Path(__file__).with_name("cpu.c")).embedding
    function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 2
    function.restype = None

    def embedding(weight_VM: Tensor, tokens_T: Tensor) -> Tensor:
        assert weight_VM.is_contiguous() and tokens_T.is_contiguous() and tokens_T.dtype == torch.int64
        out_TM = torch.empty((tokens_T.shape[0], weight_VM.shape[1]), dtype=weight_VM.dtype)
        row_bytes = weight_VM.shape[1] * weight_VM.element_size()
        function(weight_VM.data_ptr(), tokens_T.data_ptr(), out_TM.data_ptr(), tokens_T.shape[0], row_bytes)
        return out_TM

    return embedding
