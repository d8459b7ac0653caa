"""The gates of the gated delta rule."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["DeltaGates"]


@dataclass(frozen=True, slots=True)
class DeltaGates:
    """decay_THK  [T, H, K] fp32  what is kept of the state, at most 1, of each key channel; [T, H, 1]: of all of them
    beta_TH    [T, H] fp32     how far the state's answer to the key moves towards the value
    """

    decay_THK: Tensor
    beta_TH: Tensor
