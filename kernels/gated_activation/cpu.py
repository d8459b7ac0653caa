"""The gated activation in C. Supports bfloat16, contiguous."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kernels.gated_activation.reference import Activation
from kernels.native.compiler import Compiler
from kernels.native.recorder import NativeFunction

__all__ = ["KINDS", "build", "load_gate"]

KINDS: dict[Activation, int] = {"silu": 0, "gelu_tanh": 1, "clamped": 2}  # as cpu.c has them


def load_gate(compiler: Compiler) -> NativeFunction:
    """(gate_up, out, rows, dim, kind, threads), for other compiled code too."""
    function = compiler.load(Path(__file__).with_name("cpu.c")).gated_activation
    function.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 4
    function.restype = None
    return function


def build(compiler: Compiler) -> Callable[..., Tensor]:
    function = load_gate(compiler)

    def gated_activation(gate_up_TF: Tensor, activation: Activation = "silu") -> Tensor:
        num_rows, width = gate_up_TF.shape
        out_TF = torch.empty((num_rows, width // 2), dtype=gate_up_TF.dtype)
        sizes = (num_rows, width // 2, KINDS[activation], torch.get_num_threads())
        function(gate_up_TF.data_ptr(), out_TF.data_ptr(), *sizes)
        return out_TF

    return gated_activation
