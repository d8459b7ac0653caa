"""What a selective scan is given besides its three projections."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["ScanGates"]


@dataclass(frozen=True, slots=True)
class ScanGates:
    """decay_TH  [T, H] fp32   what is kept of the state, at most 1
    step_TH   [T, H] fp32   how much of the input comes in
    skip_H    [H] fp32      how much of it goes by
    """

    decay_TH: Tensor
    step_TH: Tensor
    skip_H: Tensor
