"""The selective scan of Mamba-2 in Triton, token by token. A program has some rows of a head's state in registers."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.causal_conv.layout import StateLayout
from kernels.selective_scan.gates import ScanGates

__all__ = ["launch", "selective_scan"]


def selective_scan(
    x_THP: Tensor, b_TGN: Tensor, c_TGN: Tensor, gates: ScanGates, state: Tensor, layout: StateLayout
) -> Tensor:
    _, num_heads, head_dim = x_THP.shape
    _, num_groups, state_dim = b_TGN.shape
    inputs = (x_THP, b_TGN, c_TGN)
    assert all(x.stride(2) == 1 and x.stride(1) == x.shape[2] for x in inputs) and state.is_contiguous()
    assert gates.decay_TH.is_contiguous() and gates.step_TH.is_contiguous() and state.dtype == torch.float32
    out_THP = torch.zeros(x_THP.shape, dtype=x_THP.dtype, device=x_THP.device)
    num_seqs = len(layout.slots_S)
    if not len(x_THP) or not num_seqs:
        return out_THP
    config = launch(head_dim, state_dim)
    _selective_scan[num_seqs, num_heads, triton.cdiv(head_dim, config["BLOCK_P"])](
        *inputs, gates.decay_TH, gates.step_TH, gates.skip_H, state, layout.query_starts, layout.seq_lens_S,
        layout.slots_S, out_THP, *(x.stride(0) for x in inputs), HEADS=num_heads, GROUPS=num_groups, P=head_dim,
        N=state_dim, **config,
    )  # fmt: skip
    return out_THP


def launch(head_dim: int, state_dim: int) -> dict[str, int]:
    """One warp has whole rows, so that their sums need no other."""
    return {
        "BLOCK_P": min(16, triton.next_power_of_2(head_dim)),
        "BLOCK_N": triton.next_power_of_2(state_dim),
        "num_warps": 1 if state_dim <= 128 else 2,
        "num_stages": 1,
    }


@triton.jit
def _selective_scan(
    x, b, c, decay, step, skip, state, starts, lens, slots, out, x_stride, b_stride, c_stride,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """[sequence, head, block of rows]."""
    seq = tl.program_id(0)
    head = tl.program_id(1)
    group = head // (HEADS // GROUPS)
    p = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.arange(0, BLOCK_N)
    start = tl.load(starts + seq)
    end = tl.load(starts + seq + 1)
    if end == start:
        return
    inside = (p < P)[:, None] & (n < N)[None, :]
    at = state + (tl.load(slots + seq) * HEADS + head) * P * N + p[:, None] * N + n[None, :]
    goes_on = tl.load(lens + seq) > end - start
    first = start.to(tl.int64)
    memory = tl.load(at, mask=inside & goes_on, other=0.0)
    goes_by = tl.load(skip + head)
    for row in range(start, end):
        token = first + (row - start)
        value = tl.load(x + token * x_stride + head * P + p, mask=p < P, other=0.0).to(tl.float32)
        key = tl.load(b + token * b_stride + group * N + n, mask=n < N, other=0.0).to(tl.float32)
        query = tl.load(c + token * c_stride + group * N + n, mask=n < N, other=0.0).to(tl.float32)
        taken = tl.load(step + token * HEADS + head) * value
        memory = memory * tl.load(decay + token * HEADS + head) + taken[:, None] * key[None, :]
        made = tl.sum(memory * query[None, :], 1) + goes_by * value
        tl.store(out + (token * HEADS + head) * P + p, made.to(out.dtype.element_ty), mask=p < P)
    tl.store(at, memory, mask=inside)
