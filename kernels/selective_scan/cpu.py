"""The selective scan of Mamba-2 in C. Supports bfloat16 inputs and an fp32 state."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from kernels.causal_conv.layout import StateLayout
from kernels.native.compiler import Compiler
from kernels.operations import SelectiveScan
from kernels.selective_scan.gates import ScanGates

__all__ = ["build"]


def build(compiler: Compiler) -> SelectiveScan:
    function = compiler.load(Path(__file__).with_name("cpu.c")).selective_scan
    function.argtypes = [ctypes.c_void_p] * 11 + [ctypes.c_int64] * 9
    function.restype = None

    def selective_scan(
        x_THP: Tensor, b_TGN: Tensor, c_TGN: Tensor, gates: ScanGates, state: Tensor, layout: StateLayout
    ) -> Tensor:
        _, num_heads, head_dim = x_THP.shape
        _, num_groups, state_dim = b_TGN.shape
        inputs, numbers = (x_THP, b_TGN, c_TGN), (gates.decay_TH, gates.step_TH, gates.skip_H, state)
        assert all(x.dtype == torch.bfloat16 and x.stride(2) == 1 and x.stride(1) == x.shape[2] for x in inputs)
        assert all(x.dtype == torch.float32 and x.is_contiguous() for x in numbers)
        out_THP = torch.zeros(x_THP.shape, dtype=x_THP.dtype)
        function(
            *(x.data_ptr() for x in (*inputs, *numbers)),
            layout.query_starts.data_ptr(),
            layout.seq_lens_S.data_ptr(),
            layout.slots_S.data_ptr(),
            out_THP.data_ptr(),
            *(x.stride(0) for x in inputs),
            layout.slots_S.shape[0],
            num_groups,
            num_heads,
            head_dim,
            state_dim,
            torch.get_num_threads(),
        )
        return out_THP

    return selective_scan
