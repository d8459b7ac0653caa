"""The gated activation of the feed-forward (SwiGLU, GeGLU). The reference."""

from typing import Literal

from torch import Tensor
from torch.nn.functional import gelu, silu

__all__ = ["Activation", "gated_activation"]

Activation = Literal["silu", "gelu_tanh", "clamped"]


def gated_activation(gate_up_TF: Tensor, activation: Activation = "silu") -> Tensor:
    """activation(gate) * up.

    gate_up_TF  [T, 2 F]: gate, then up
    activation  silu       x * sigmoid(x)
                gelu_tanh  x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))
                clamped    x * sigmoid(1.702 * x), for a gate of at most 7; up is held between -7 and 7, and 1 is added

    Returns [T, F] in the same dtype, computed in fp32.
    """
    gate, up = gate_up_TF.chunk(2, -1)
    gate, up = gate.float(), up.float()
    match activation:
        case "silu":
            out = silu(gate) * up
        case "gelu_tanh":
            out = gelu(gate, approximate="tanh") * up
        case "clamped":
            gate = gate.clamp(max=7.0)
            out = gate * (1.702 * gate).sigmoid() * (up.clamp(-7.0, 7.0) + 1)
    return out.to(gate_up_TF.dtype)
