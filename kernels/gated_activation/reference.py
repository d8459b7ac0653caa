"""The gate of the feed-forward block."""

from typing import Literal

from torch import Tensor
from torch.nn.functional import gelu, silu

__all__ = ["Activation", "gated_activation"]

Activation = Literal["silu", "gelu_tanh"]  # the latter is x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))


def gated_activation(gate_up_TF: Tensor, activation: Activation = "silu") -> Tensor:
    """activation(gate) * up.

    gate_up_TF  [T, 2 F]: gate, then up

    Returns [T, F] in the same dtype, computed in fp32.
    """
    gate, up = gate_up_TF.chunk(2, -1)
    activated = silu(gate.float()) if activation == "silu" else gelu(gate.float(), approximate="tanh")
    return (activated * up.float()).to(gate_up_TF.dtype)
