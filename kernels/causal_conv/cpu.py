"""Causal depthwise convolution in C. Supports bfloat16."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from kernels.causal_conv.layout import StateLayout
from kernels.native.compiler import Compiler
from kernels.operations import CausalConv

__all__ = ["build"]


def build(compiler: Compiler) -> CausalConv:
    function = compiler.load(Path(__file__).with_name("cpu.c")).causal_conv
    function.argtypes = [ctypes.c_void_p] * 8 + [ctypes.c_int64] * 6
    function.restype = None

    def causal_conv(
        x_TC: Tensor, state: Tensor, weight_CK: Tensor, bias_C: Tensor | None, layout: StateLayout, with_silu: bool
    ) -> Tensor:
        num_tokens, num_channels = x_TC.shape
        assert x_TC.dtype == state.dtype == torch.bfloat16 and x_TC.stride(1) == 1 and state.is_contiguous()
        assert weight_CK.dtype == torch.float32 and weight_CK.is_contiguous()
        out_TC = torch.zeros((num_tokens, num_channels), dtype=x_TC.dtype)
        function(
            x_TC.data_ptr(),
            state.data_ptr(),
            weight_CK.data_ptr(),
            None if bias_C is None else bias_C.data_ptr(),
            layout.query_starts.data_ptr(),
            layout.seq_lens_S.data_ptr(),
            layout.slots_S.data_ptr(),
            out_TC.data_ptr(),
            layout.slots_S.shape[0],
            num_channels,
            weight_CK.shape[1],
            x_TC.stride(0),
            with_silu,
            torch.get_num_threads(),
        )
        return out_TC

    return causal_conv
