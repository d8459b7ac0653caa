"""The gates of the gated delta rule."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["DeltaGates"]


@dataclass(frozen=True, slots=True)
class DeltaGates:
    """decay_TH  [T, H] fp32   what is kept of the state, at most 1
    beta_TH   [T, H] fp32   how far the state's answer to the key moves towards the value
    """

    decay_TH: Tensor
    beta_TH: Tensor
