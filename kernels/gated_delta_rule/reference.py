"""The gated delta rule (Gated DeltaNet, arXiv 2412.06464; by key channel Kimi Delta Attention, arXiv 2510.26692), token
by token. The reference.

A token's arithmetic is the same in a prompt and in an answer, so its bits do not depend on its chunk.
"""

import torch
from torch import Tensor

from kernels.causal_conv.layout import StateLayout
from kernels.gated_delta_rule.gates import DeltaGates

__all__ = ["gated_delta_rule"]


def gated_delta_rule(
    q_TGK: Tensor,
    k_TGK: Tensor,
    v_THV: Tensor,
    gates: DeltaGates,
    state: Tensor,
    layout: StateLayout,
) -> Tensor:
    """For each token and head, with the sequence's state S, [K, V]:

    S = diag(decay) S;  S = S + k (beta * (v - k @ S));  out = q @ S

    q_TGK, k_TGK  [T, G, K]     normalized here to length 1, and q divided by sqrt(K); H is a multiple of G: heads
                                [g * H/G, (g + 1) * H/G) take those of group g
    v_THV         [T, H, V]
    gates                       decay, of a head or of each of its key channels, and beta
    state         [N, H, K, V]  fp32, read and written
    layout                      which rows and slots are whose

    The inputs may have any strides but in their last dimension. Returns [T, H, V] in v's dtype, computed in fp32. Rows
    that belong to no sequence are padding and come back as 0.
    """
    num_heads, groups = v_THV.shape[1], q_TGK.shape[1]
    out_THV = torch.zeros(v_THV.shape, dtype=v_THV.dtype, device=v_THV.device)
    q_THK, k_THK = (_normalized(x).repeat_interleave(num_heads // groups, 1) for x in (q_TGK, k_TGK))
    q_THK = q_THK * q_TGK.shape[2] ** -0.5
    v_wide = v_THV.float()
    for start, end, slot, begins in layout.sequences():
        memory = torch.zeros_like(state[slot]) if begins else state[slot].clone()
        for t in range(start, end):
            memory *= gates.decay_THK[t, :, :, None]
            key = k_THK[t, :, :, None]
            change = gates.beta_TH[t, :, None] * (v_wide[t] - (memory * key).sum(1))
            memory += key * change[:, None]
            out_THV[t] = (memory * q_THK[t, :, :, None]).sum(1).to(out_THV.dtype)
        state[slot] = memory
    return out_THV


def _normalized(x: Tensor) -> Tensor:
    wide = x.float()
    return wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + 1e-6)
