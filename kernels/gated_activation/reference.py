"""The gate of the feed-forward block."""

from torch import Tensor
from torch.nn.functional import silu

__all__ = ["gated_activation"]


def gated_activation(gate_up_TF: Tensor) -> Tensor:
    """silu(gate) * up.

    gate_up_TF  [T, 2 F]: gate, then up

    Returns [T, F] in the same dtype, computed in fp32.
    """
    gate, up = gate_up_TF.chunk(2, -1)
    return (silu(gate.float()) * up.float()).to(gate_up_TF.dtype)
