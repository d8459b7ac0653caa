"""Causal depthwise convolution in Triton. Every row is computed on its own; then the states are advanced."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor

from kernels.attention_tile.splits_triton import owner_of
from kernels.causal_conv.layout import StateLayout

__all__ = ["BLOCK_C", "causal_conv"]

BLOCK_C = 256


def causal_conv(
    x_TC: Tensor, state: Tensor, weight_CK: Tensor, bias_C: Tensor | None, layout: StateLayout, with_silu: bool
) -> Tensor:
    num_tokens, num_channels = x_TC.shape
    assert x_TC.stride(1) == 1 and state.is_contiguous() and weight_CK.is_contiguous()
    out_TC = x_TC.new_empty((num_tokens, num_channels))
    num_seqs = len(layout.slots_S)
    if not num_tokens or not num_seqs:
        return out_TC.zero_()
    rows = (layout.query_starts, layout.seq_lens_S, layout.slots_S, num_seqs)
    sizes = {"C": num_channels, "TAPS": weight_CK.shape[1], "BLOCK_C": BLOCK_C, "num_warps": 4}
    parts = triton.cdiv(num_channels, BLOCK_C)
    _convolve[num_tokens, parts](x_TC, state, weight_CK, bias_C, *rows, out_TC, x_TC.stride(0), SILU=with_silu, **sizes)
    _advance[num_seqs, parts](x_TC, state, *rows[:3], x_TC.stride(0), **sizes)
    return out_TC


@triton.jit(do_not_specialize=["num_seqs"])
def _convolve(
    x, state, weight, bias, starts, lens, slots, num_seqs, out, stride,
    SILU: tl.constexpr, C: tl.constexpr, TAPS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """[row, block of channels]. Inputs before the step's are the state's; before the sequence there are none."""
    row = tl.program_id(0)
    seq, position = owner_of(row, starts, lens, num_seqs)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    to = out + row.to(tl.int64) * C + c
    if position < 0:
        tl.store(to, tl.zeros([BLOCK_C], out.dtype.element_ty), mask=c < C)
        return
    start = tl.load(starts + seq)
    last = state + tl.load(slots + seq) * (TAPS - 1) * C + c
    sums = tl.zeros([BLOCK_C], tl.float32)
    for tap in tl.static_range(TAPS):
        at = row - (TAPS - 1) + tap
        here = (at >= start) & (c < C)
        before = (at < start) & (position - (TAPS - 1) + tap >= 0) & (c < C)
        value = tl.load(x + at.to(tl.int64) * stride + c, mask=here, other=0.0).to(tl.float32)
        value += tl.load(last + (TAPS - 1 + at - start) * C, mask=before, other=0.0).to(tl.float32)
        sums += value * tl.load(weight + c * TAPS + tap, mask=c < C, other=0.0)
    if bias is not None:
        sums += tl.load(bias + c, mask=c < C, other=0.0)
    if SILU:
        sums = sums / (1.0 + tl.exp(-sums))
    tl.store(to, sums.to(out.dtype.element_ty), mask=c < C)


@triton.jit
def _advance(
    x, state, starts, lens, slots, stride, C: tl.constexpr, TAPS: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """[sequence, block of channels]. The state becomes the last inputs. It is moved from its old end to its begin."""
    seq = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    start = tl.load(starts + seq)
    end = tl.load(starts + seq + 1)
    if end == start:
        return
    position = tl.load(lens + seq)
    last = state + tl.load(slots + seq) * (TAPS - 1) * C + c
    for k in tl.static_range(TAPS - 1):
        at = end - (TAPS - 1) + k
        here = (at >= start) & (c < C)
        before = (at < start) & (position - (TAPS - 1) + k >= 0) & (c < C)
        value = tl.load(x + at.to(tl.int64) * stride + c, mask=here, other=0.0).to(tl.float32)
        value += tl.load(last + (TAPS - 1 + at - start) * C, mask=before, other=0.0).to(tl.float32)
        tl.store(last + k * C, value.to(state.dtype.element_ty), mask=c < C)
