"""Group-quantized linear layers (4 and 8 bits) on CPU with int8 activations, in C: products of integers.

Activations are quantized dynamically: each row to 8 bits by groups of 32 inputs, each with a scale (reference.py,
`fake_quantize`), as llama.cpp and OpenVINO do. Supports bfloat16 rows, and x86-64 with AVX2 or AVX-512 and every arm64;
with VNNI a product of four bytes is one instruction, twice as fast as bfloat16's. A row's result is bitwise the same in
any batch and on all of these CPUs.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kernels.native.compiler import Compiler
from kernels.native.weight_memory import PrivateMemory, WeightMemory
from kernels.quantized_linear.cpu import IntegerQuantizedLinear
from kernels.quantized_linear.reference import GroupQuantized

__all__ = ["build"]


def build(compiler: Compiler, memory: WeightMemory | None = None) -> "Callable[..., Int8Linear] | None":
    """None where this CPU lacks what it takes. Weights are packed to `memory`; None: memory of this process."""
    weight_memory = memory or PrivateMemory()
    library = compiler.load(Path(__file__).with_name("int8.c"))
    if not library.is_supported():
        return None
    library.quantized_linear.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 9
    library.quantized_linear.restype = None

    def int8_linear(
        weight: GroupQuantized, bias_O: Tensor | None = None, out_dtype: torch.dtype | None = None
    ) -> Int8Linear:
        return Int8Linear(library, weight_memory, weight, bias_O, out_dtype or torch.bfloat16)

    return int8_linear


class Int8Linear(IntegerQuantizedLinear):
    input_bytes = 1
