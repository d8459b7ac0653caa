"""The gated delta rule in Triton, token by token. A program has some columns of a head's state in registers."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.causal_conv.layout import StateLayout
from kernels.gated_delta_rule.gates import DeltaGates

__all__ = ["gated_delta_rule", "launch"]


def gated_delta_rule(
    q_TGK: Tensor, k_TGK: Tensor, v_THV: Tensor, gates: DeltaGates, state: Tensor, layout: StateLayout
) -> Tensor:
    _, num_groups, k_dim = q_TGK.shape
    _, num_heads, v_dim = v_THV.shape
    inputs = (q_TGK, k_TGK, v_THV)
    assert all(x.stride(2) == 1 and x.stride(1) == x.shape[2] for x in inputs) and state.is_contiguous()
    assert gates.decay_THK.is_contiguous() and gates.beta_TH.is_contiguous() and state.dtype == torch.float32
    out_THV = torch.zeros(v_THV.shape, dtype=v_THV.dtype, device=v_THV.device)
    num_seqs = len(layout.slots_S)
    if not len(v_THV) or not num_seqs:
        return out_THV
    config = launch(k_dim, v_dim)
    _gated_delta_rule[num_seqs, num_heads, triton.cdiv(v_dim, config["BLOCK_V"])](
        *inputs, gates.decay_THK, gates.beta_TH, state, layout.query_starts, layout.seq_lens_S, layout.slots_S,
        out_THV, *(x.stride(0) for x in inputs), k_dim**-0.5, HEADS=num_heads, GROUPS=num_groups, K=k_dim, V=v_dim,
        DECAYS=gates.decay_THK.shape[2], **config,
    )  # fmt: skip
    return out_THV


def launch(k_dim: int, v_dim: int) -> dict[str, int]:
    """One warp has a whole column, so that its sums need no other."""
    return {
        "BLOCK_K": triton.next_power_of_2(k_dim),
        "BLOCK_V": min(16, triton.next_power_of_2(v_dim)),
        "num_warps": 1,
        "num_stages": 1,
    }


@triton.jit
def _gated_delta_rule(
    q, k, v, decay, beta, state, starts, lens, slots, out, q_stride, k_stride, v_stride, scale,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    DECAYS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """[sequence, head, block of columns]. DECAYS: K, or 1 where all key channels have the same."""
    seq = tl.program_id(0)
    head = tl.program_id(1)
    group = head // (HEADS // GROUPS)
    i = tl.arange(0, BLOCK_K)
    j = tl.program_id(2) * BLOCK_V + tl.arange(0, BLOCK_V)
    start = tl.load(starts + seq)
    end = tl.load(starts + seq + 1)
    if end == start:
        return
    inside = (i < K)[:, None] & (j < V)[None, :]
    at = state + (tl.load(slots + seq) * HEADS + head) * K * V + i[:, None] * V + j[None, :]
    goes_on = tl.load(lens + seq) > end - start
    first = start.to(tl.int64)
    memory = tl.load(at, mask=inside & goes_on, other=0.0)
    for row in range(start, end):
        token = first + (row - start)
        query = tl.load(q + token * q_stride + group * K + i, mask=i < K, other=0.0).to(tl.float32)
        key = tl.load(k + token * k_stride + group * K + i, mask=i < K, other=0.0).to(tl.float32)
        value = tl.load(v + token * v_stride + head * V + j, mask=j < V, other=0.0).to(tl.float32)
        query *= scale / tl.sqrt(tl.sum(query * query, 0) + 1e-6)
        key *= 1.0 / tl.sqrt(tl.sum(key * key, 0) + 1e-6)
        if DECAYS == 1:
            memory *= tl.load(decay + token * HEADS + head)
        else:
            memory *= tl.load(decay + (token * HEADS + head) * DECAYS + i, mask=i < K, other=0.0)[:, None]
        change = tl.load(beta + token * HEADS + head) * (value - tl.sum(memory * key[:, None], 0))
        memory += key[:, None] * change[None, :]
        made = tl.sum(memory * query[:, None], 0)
        tl.store(out + (token * HEADS + head) * V + j, made.to(out.dtype.element_ty), mask=j < V)
    tl.store(at, memory, mask=inside)
