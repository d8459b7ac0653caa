"""The gated delta rule in C. Supports bfloat16 inputs and an fp32 state."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from kernels.causal_conv.layout import StateLayout
from kernels.gated_delta_rule.gates import DeltaGates
from kernels.native.compiler import Compiler
from kernels.operations import GatedDeltaRule

__all__ = ["build"]


def build(compiler: Compiler) -> GatedDeltaRule:
    function = compiler.load(Path(__file__).with_name("cpu.c")).gated_delta_rule
    function.argtypes = [ctypes.c_void_p] * 10 + [ctypes.c_int64] * 10
    function.restype = None

    def gated_delta_rule(
        q_TGK: Tensor,
        k_TGK: Tensor,
        v_THV: Tensor,
        gates: DeltaGates,
        state: Tensor,
        layout: StateLayout,
    ) -> Tensor:
        _, num_groups, k_dim = q_TGK.shape
        _, num_heads, v_dim = v_THV.shape
        inputs = (q_TGK, k_TGK, v_THV)
        assert all(x.dtype == torch.bfloat16 and x.stride(2) == 1 and x.stride(1) == x.shape[2] for x in inputs)
        assert all(x.dtype == torch.float32 and x.is_contiguous() for x in (gates.decay_THK, gates.beta_TH, state))
        out_THV = torch.zeros(v_THV.shape, dtype=v_THV.dtype)
        function(
            *(x.data_ptr() for x in (*inputs, gates.decay_THK, gates.beta_TH, state)),
            layout.query_starts.data_ptr(),
            layout.seq_lens_S.data_ptr(),
            layout.slots_S.data_ptr(),
            out_THV.data_ptr(),
            *(x.stride(0) for x in inputs),
            layout.slots_S.shape[0],
            num_groups,
            num_heads,
            k_dim,
            v_dim,
            gates.decay_THK.shape[2],
            torch.get_num_threads(),
        )
        return out_THV

    return gated_delta_rule
