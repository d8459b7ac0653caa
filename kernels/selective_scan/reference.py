"""The selective scan of Mamba-2 (arXiv 2405.21060), token by token. The reference.

A token's arithmetic is the same in a prompt and in an answer, so its bits do not depend on its chunk.
"""

import torch
from torch import Tensor

from kernels.causal_conv.layout import StateLayout
from kernels.selective_scan.gates import ScanGates

__all__ = ["selective_scan"]


def selective_scan(
    x_THP: Tensor, b_TGN: Tensor, c_TGN: Tensor, gates: ScanGates, state: Tensor, layout: StateLayout
) -> Tensor:
    """For each token and head, with the sequence's state S, [P, N]:

    S = decay * S + (step * x) b;  out = S @ c + skip * x

    x_THP         [T, H, P]
    b_TGN, c_TGN  [T, G, N]     H is a multiple of G: heads [g * H/G, (g + 1) * H/G) take those of group g
    gates                       decay and step of each token and head, skip of each head
    state         [M, H, P, N]  fp32, read and written, in M slots
    layout                      which rows and slots are whose

    The inputs may have any strides but in their last dimension. Returns [T, H, P] in x's dtype, computed in fp32. Rows
    that belong to no sequence are padding and come back as 0.
    """
    repeat = x_THP.shape[1] // b_TGN.shape[1]
    b_THN, c_THN = (one.float().repeat_interleave(repeat, 1) for one in (b_TGN, c_TGN))
    x_wide, out_THP = x_THP.float(), torch.zeros(x_THP.shape, dtype=x_THP.dtype, device=x_THP.device)
    for start, end, slot, begins in layout.sequences():
        memory = torch.zeros_like(state[slot]) if begins else state[slot].clone()
        for t in range(start, end):
            taken = gates.step_TH[t, :, None] * x_wide[t]
            memory = memory * gates.decay_TH[t, :, None, None] + taken[:, :, None] * b_THN[t, :, None]
            made = (memory * c_THN[t, :, None]).sum(2) + gates.skip_H[:, None] * x_wide[t]
            out_THP[t] = made.to(out_THP.dtype)
        state[slot] = memory
    return out_THP
