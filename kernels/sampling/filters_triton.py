"""top-k, top-p and min-p in Triton, for fp32 logits, without a sort.

A row's border, the least logit that stays, is found by radix selection: the bits of a float, turned so that they order
as the floats do, are searched 4 at a time, highest first. A level adds up the weight of the tokens in each of 16 ranges
of keys, and the next one looks into the range that holds the border. Weights are 1 for top-k and probabilities for
top-p: one search for both. To cut off at a threshold instead of sorting is the idea of FlashInfer's sampling kernels
("Sorting-Free GPU Kernels for LLM Sampling", 2025).

Chunks are summed in fp32 and all chunks of a row as integers, parts of 2^-40 of the largest probability, in any order:
a row's result depends on that row alone. top-k is exact. With top-p, exponentials and the sums of chunks are good to
2e-6: tokens before which the sum is that near to top_p may be on either side of the border.

At 128 rows of 128k tokens a pass reads 66 MB: 22 us at 3 TB/s. top-p reads for the largest logit, for 8 levels and for
the result, which is written as well. A level takes about 100 instructions for a token, but a chunk in whose range
nothing is left is not read again: normal logits are mostly read in five or six levels; those of a language model, of
which few are near the border, in three or four. Measured on an H100, for normal logits: top-k 330 us, top-p 429 us.
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import measured

__all__ = ["keep_min_p", "keep_top_k", "keep_top_p", "launch", "ordered_bits"]

BITS = tl.constexpr(4)
BINS = tl.constexpr(16)
LEVELS = tl.constexpr(8)
UNIT = tl.constexpr(2.0**40)  # the weight of the most likely token, as an integer
ALL = tl.constexpr(2**63 - 1)  # more weight than there is


def keep_min_p(logits_RV: Tensor, min_p_R: Tensor) -> Tensor:
    logits_RV = logits_RV.contiguous()
    out_RV = torch.empty_like(logits_RV)
    if logits_RV.shape[0]:
        grid, shape = _cut(logits_RV)
        _drop_below[grid](logits_RV, min_p_R, _tops(logits_RV), out_RV, **shape)
    return out_RV


def keep_top_k(logits_RV: Tensor, top_k_R: Tensor) -> Tensor:
    return _keep(logits_RV, top_k_R, False)


def keep_top_p(logits_RV: Tensor, top_p_R: Tensor) -> Tensor:
    return _keep(logits_RV, top_p_R, True)


def launch(vocab_size: int, device: torch.device) -> dict[str, int]:
    """CHUNK_V are the tokens of one program."""
    config = {"CHUNK_V": min(4096, triton.next_power_of_2(vocab_size)), "num_warps": 4, "num_stages": 1}
    return {**config, **measured(__file__, device).get(f"filters V={vocab_size}", {})}


def _keep(logits_RV: Tensor, bounds_R: Tensor, weighted: bool) -> Tensor:
    logits_RV = logits_RV.contiguous()
    out_RV = torch.empty_like(logits_RV)
    if not logits_RV.shape[0]:
        return out_RV
    grid, shape = _cut(logits_RV)
    tops_RC = _tops(logits_RV) if weighted else None
    sums_LRCB = torch.empty((LEVELS.value, *grid, BINS.value), dtype=torch.int64, device=logits_RV.device)
    borders_LR3 = torch.empty((LEVELS.value, grid[0], 3), dtype=torch.int64, device=logits_RV.device)
    tensors = (logits_RV, bounds_R, tops_RC, sums_LRCB, borders_LR3)
    for level in range(LEVELS.value):
        _weigh[grid](*tensors, level, WEIGHTED=weighted, **shape)
    _drop[grid](*tensors, out_RV, WEIGHTED=weighted, **shape)
    return out_RV


def _tops(logits_RV: Tensor) -> Tensor:
    """The largest logit of each chunk."""
    grid, shape = _cut(logits_RV)
    tops_RC = torch.empty(grid, dtype=torch.float32, device=logits_RV.device)
    _top_of_chunk[grid](logits_RV, tops_RC, **shape)
    return tops_RC


def _cut(logits_RV: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """Rows and chunks; what every kernel here is told."""
    num_rows, vocab_size = logits_RV.shape
    config = launch(vocab_size, logits_RV.device)
    num_chunks = triton.cdiv(vocab_size, config["CHUNK_V"])
    return (num_rows, num_chunks), {"V": vocab_size, "BLOCK_C": triton.next_power_of_2(num_chunks), **config}


@triton.jit
def _load_chunk(logits, V: tl.constexpr, CHUNK_V: tl.constexpr):
    """Where this program's tokens stand, which of them there are, and their logits: -inf for the others."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * CHUNK_V + tl.arange(0, CHUNK_V)
    return row * V + token, token < V, tl.load(logits + row * V + token, mask=token < V, other=-float("inf"))


@triton.jit
def _load_top(tops, BLOCK_C: tl.constexpr):
    """The row's largest logit; 0 in a row of nothing but -inf."""
    chunks = tl.num_programs(1)
    chunk = tl.arange(0, BLOCK_C)
    top = tl.max(tl.load(tops + tl.program_id(0) * chunks + chunk, mask=chunk < chunks, other=-float("inf")), 0)
    return tl.where(top == -float("inf"), 0.0, top)


@triton.jit
def ordered_bits(logit):
    """Unsigned bits that order as logits do. Zero has one key, whatever its sign."""
    bits = tl.where(logit == 0.0, 0.0, logit).to(tl.uint32, bitcast=True)
    return bits ^ tl.where(bits >> 31 != 0, 0xFFFFFFFF, 0x80000000)


@triton.jit
def _weight(logit, tops, WEIGHTED: tl.constexpr, BLOCK_C: tl.constexpr):
    """At most 1; nothing for -inf."""
    if WEIGHTED:
        return tl.exp(logit - _load_top(tops, BLOCK_C))
    else:
        return (logit > -float("inf")).to(tl.float32)


@triton.jit
def _is_on(bound, WEIGHTED: tl.constexpr):
    if WEIGHTED:
        return bound < 1
    else:
        return bound > 0


@triton.jit
def _target(bound, total, WEIGHTED: tl.constexpr):
    """Tokens stay before which there is less than this."""
    whole = total.to(tl.float64) if WEIGHTED else UNIT
    target = tl.minimum(tl.ceil(bound.to(tl.float64) * whole), 2.0**62).to(tl.int64)
    return tl.where(_is_on(bound, WEIGHTED), tl.maximum(target, 1), ALL)


@triton.jit
def _border(bounds, sums, borders, level, WEIGHTED: tl.constexpr, BLOCK_C: tl.constexpr):
    """Where a row's border is after `level` levels, at least 1 of LEVELS.

    Returns the lowest key of its range, the weight above the range, the target, and the weight in it by chunk.
    """
    row = tl.program_id(0).to(tl.int64)
    chunks = tl.num_programs(1)
    past = (level - 1) * tl.num_programs(0) + row
    chunk, bin = tl.arange(0, BLOCK_C), tl.arange(0, BINS)
    sums_CB = tl.load(
        sums + (past * chunks + chunk[:, None]) * BINS + bin[None, :], mask=chunk[:, None] < chunks, other=0
    )
    sums_B = tl.sum(sums_CB, 0)
    total = tl.sum(sums_B, 0)
    if level == 1:
        lowest = total * 0
        before = total * 0
        target = _target(tl.load(bounds + row), total, WEIGHTED)
    else:
        lowest = tl.load(borders + past * 3)
        before = tl.load(borders + past * 3 + 1)
        target = tl.load(borders + past * 3 + 2)
    above_B = before + total - tl.cumsum(sums_B, 0)
    chosen = tl.sum((above_B >= target).to(tl.int32), 0)
    lowest += chosen.to(tl.int64) << (32 - level * BITS)
    before = tl.sum(tl.where(bin == chosen, above_B, 0), 0)
    return lowest, before, target, tl.sum(tl.where(bin[None, :] == chosen, sums_CB, 0), 1)


@triton.jit
def _of(chunk, weight_C, BLOCK_C: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, BLOCK_C) == chunk, weight_C, 0), 0)


@triton.jit
def _top_of_chunk(logits, tops, V: tl.constexpr, BLOCK_C: tl.constexpr, CHUNK_V: tl.constexpr):
    _, _, logit = _load_chunk(logits, V, CHUNK_V)
    tl.store(tops + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), tl.max(logit, 0))


@triton.jit
def _drop_below(logits, min_ps, tops, out, V: tl.constexpr, BLOCK_C: tl.constexpr, CHUNK_V: tl.constexpr):
    at, there, logit = _load_chunk(logits, V, CHUNK_V)
    min_p = tl.load(min_ps + tl.program_id(0))
    least = tl.where(min_p > 0, _load_top(tops, BLOCK_C) + tl.log(tl.maximum(min_p, 1e-38)), -float("inf"))
    tl.store(out + at, tl.where(logit < least, -float("inf"), logit), mask=there)


@triton.jit(do_not_specialize=["level"])
def _weigh(
    logits, bounds, tops, sums, borders, level,
    WEIGHTED: tl.constexpr, V: tl.constexpr, BLOCK_C: tl.constexpr, CHUNK_V: tl.constexpr,
):  # fmt: skip
    """[row, chunk]: sums[level] of the chunk, and borders[level] of the row, which is what `level` levels found."""
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    here = level * tl.num_programs(0) + row
    bin = tl.arange(0, BINS)
    if level == 0:
        lowest = row * 0
        found = _is_on(tl.load(bounds + row), WEIGHTED)
    else:
        lowest, before, target, weight_C = _border(bounds, sums, borders, level, WEIGHTED, BLOCK_C)
        found = _of(chunk, weight_C, BLOCK_C) > 0
        if chunk == 0:
            tl.store(borders + here * 3, lowest)
            tl.store(borders + here * 3 + 1, before)
            tl.store(borders + here * 3 + 2, target)
    sum_B = tl.zeros([BINS], tl.float32)
    if found:
        _, _, logit = _load_chunk(logits, V, CHUNK_V)
        weight = _weight(logit, tops, WEIGHTED, BLOCK_C)
        digit = (ordered_bits(logit) - lowest.to(tl.uint32)) >> (32 - (level + 1) * BITS).to(tl.uint32)
        sum_B = tl.sum(tl.where(digit[None, :] == bin[:, None].to(tl.uint32), weight[None, :], 0.0), 1)
    tl.store(sums + (here * tl.num_programs(1) + chunk) * BINS + bin, (sum_B * UNIT).to(tl.int64))


@triton.jit
def _drop(
    logits, bounds, tops, sums, borders, out,
    WEIGHTED: tl.constexpr, V: tl.constexpr, BLOCK_C: tl.constexpr, CHUNK_V: tl.constexpr,
):  # fmt: skip
    """Of the border's equals those with the lowest ids stay, as many as the target asks for."""
    lowest, before, target, weight_C = _border(bounds, sums, borders, LEVELS, WEIGHTED, BLOCK_C)
    at, there, logit = _load_chunk(logits, V, CHUNK_V)
    key, border = ordered_bits(logit), lowest.to(tl.uint32)
    kept = key > border
    if _of(tl.program_id(1), weight_C, BLOCK_C) > 0:
        equal = key == border
        each = tl.max(tl.where(equal, _weight(logit, tops, WEIGHTED, BLOCK_C), 0.0), 0) * UNIT
        before += tl.sum(tl.where(tl.arange(0, BLOCK_C) < tl.program_id(1), weight_C, 0), 0)
        most = tl.cdiv(target - before, tl.maximum(each.to(tl.int64), 1))
        kept |= equal & (tl.cumsum(equal.to(tl.int32), 0) <= tl.minimum(most, CHUNK_V).to(tl.int32))
    tl.store(out + at, tl.where(kept, logit, -float("inf")), mask=there)
