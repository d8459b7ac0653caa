"""Causal depthwise convolution over a ragged batch; a sequence's last inputs are its state. The reference."""

import torch
from torch import Tensor
from torch.nn.functional import silu

from kernels.causal_conv.layout import StateLayout

__all__ = ["causal_conv"]


def causal_conv(
    x_TC: Tensor, state: Tensor, weight_CK: Tensor, bias_C: Tensor | None, layout: StateLayout, with_silu: bool
) -> Tensor:
    """out[t, c] = bias[c] + sum over k of weight[c, k] * x[t - (K - 1) + k, c], with 0 before a sequence's start.

    x_TC       [T, C], with any strides
    state      [N, K - 1, C]   of each slot the last inputs, the oldest first: read and written
    weight_CK  [C, K] fp32
    bias_C     [C] fp32 or None
    layout                     which rows and slots are whose
    with_silu                  the output goes through x * sigmoid(x)

    Returns [T, C] in x's dtype, computed in fp32. Rows that belong to no sequence are padding and come back as 0.
    """
    out_TC = torch.zeros(x_TC.shape, dtype=x_TC.dtype, device=x_TC.device)
    num_taps = weight_CK.shape[1]
    for start, end, slot, begins in layout.sequences():
        past = torch.zeros_like(state[slot]) if begins else state[slot]
        known = torch.cat((past, x_TC[start:end]))
        made = torch.zeros((end - start, x_TC.shape[1]), dtype=torch.float32, device=x_TC.device)
        for tap in range(num_taps):
            made += known[tap : tap + end - start].float() * weight_CK[:, tap]
        if bias_C is not None:
            made += bias_C
        out_TC[start:end] = (silu(made) if with_silu else made).to(x_TC.dtype)
        state[slot] = known[len(known) - (num_taps - 1) :]
    return out_TC
