"""The gated activation in Triton, for contiguous gate_up."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gated_activation.reference import Activation
from kernels.launch import measured

__all__ = ["gated_activation", "launch"]


def gated_activation(gate_up_TF: Tensor, activation: Activation = "silu") -> Tensor:
    assert gate_up_TF.is_contiguous()
    num_tokens, width = gate_up_TF.shape
    out_TF = gate_up_TF.new_empty((num_tokens, width // 2))
    if num_tokens:
        config = launch(width // 2, gate_up_TF.device)
        grid = num_tokens, triton.cdiv(width // 2, config["BLOCK_F"])
        _gated_activation[grid](gate_up_TF, out_TF, KIND=activation, F=width // 2, **config)
    return out_TF


def launch(ffn_dim: int, device: torch.device) -> dict[str, int]:
    config = {"BLOCK_F": min(1024, triton.next_power_of_2(ffn_dim)), "num_warps": 4, "num_stages": 1}
    return {**config, **measured(__file__, device).get(f"F={ffn_dim}", {})}


@triton.jit
def _gated_activation(gate_up, out, KIND: tl.constexpr, F: tl.constexpr, BLOCK_F: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    gate = tl.load(gate_up + token * (2 * F) + f, mask=f < F, other=0.0).to(tl.float32)
    up = tl.load(gate_up + token * (2 * F) + F + f, mask=f < F, other=0.0).to(tl.float32)
    turn = gate  # of x * sigmoid(turn)
    if KIND == "gelu_tanh":  # x / 2 * (1 + tanh(y)) is x * sigmoid(2 y)
        turn = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    elif KIND == "clamped":
        gate = tl.minimum(gate, 7.0)
        turn = 1.702 * gate
        up = tl.minimum(tl.maximum(up, -7.0), 7.0) + 1.0
    small = tl.exp(-tl.abs(turn))  # never overflows
    activated = gate * (tl.where(turn >= 0, 1.0, small) / (1.0 + small)) * up
    tl.store(out + token * F + f, activated.to(out.dtype.element_ty), mask=f < F)
