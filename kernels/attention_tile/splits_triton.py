"""Splits of attention in Triton: which keys of a query are summed apart, and how the parts are added up.

keys        0            shared           position
            |  for the group  |  for the query  |
parts         0     1     2     3     4     5        a split each; `merge` adds them up
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl

from kernels.attention_tile.triton import LOG2_E, first_seen, logarithm

__all__ = ["last_not_after", "merge", "owner_of", "row_of", "shared_of", "split_size", "splits_of"]


@triton.jit
def last_not_after(starts, num_seqs, row, TILE: tl.constexpr):
    """The last sequence s with starts[s] // TILE + s <= row; of TILE 0, with starts[s] <= row."""
    low = 0
    high = num_seqs
    while high - low > 1:
        middle = (low + high) // 2
        at = tl.load(starts + middle)
        if TILE > 0:
            at = at // TILE + middle
        if at <= row:
            low = middle
        else:
            high = middle
    return low


@triton.jit
def owner_of(row, starts, lens, num_seqs):
    """(sequence, position) of any row; the position is -1 for padding."""
    seq = last_not_after(starts, num_seqs, row, 0)
    left = tl.load(starts + seq + 1) - row
    return seq, tl.where(left > 0, tl.load(lens + seq) - left, -1)


@triton.jit
def row_of(item, starts, lens, num_seqs, BY_ROW: tl.constexpr):
    """(sequence, row, position) of an item: a row, of which there are no more than sequences, or the only query of a
    sequence.

    The position is -1 for padding, -2 for sequences with other than one query.
    """
    if BY_ROW:
        row = item
        seq = item
        if (tl.load(starts + seq) != row) | (tl.load(starts + seq + 1) != row + 1):
            seq = last_not_after(starts, num_seqs, row, 0)
        left = tl.load(starts + seq + 1) - row
        position = tl.where(left > 0, tl.load(lens + seq) - left, -1)
    else:
        seq = item
        row = tl.load(starts + seq)
        only = tl.load(starts + seq + 1) == row + 1
        position = tl.where(only, tl.load(lens + seq) - 1, -2)
    return seq, row, position


@triton.jit
def split_size(num_keys, SPLIT: tl.constexpr, MAX_SPLITS: tl.constexpr):
    return SPLIT * tl.maximum(1, tl.cdiv(num_keys, SPLIT * MAX_SPLITS))


@triton.jit
def shared_of(shared_lens, seq, SPLIT: tl.constexpr, MAX_SPLITS: tl.constexpr):
    """(keys that a sequence shares with its group, parts that they make)"""
    shared = 0
    num_parts = 0
    if shared_lens is not None:
        shared = tl.load(shared_lens + seq)
        num_parts = tl.cdiv(shared, split_size(shared, SPLIT, MAX_SPLITS))
    return shared, num_parts


@triton.jit
def splits_of(position, shared, WINDOW: tl.constexpr, SPLIT: tl.constexpr, MAX_SPLITS: tl.constexpr):
    """(first key, keys of a split, first split, last split) of a query, of the keys from `shared` on; all follow from
    its position."""
    size = split_size(position + 1 - shared, SPLIT, MAX_SPLITS)
    first_key = first_seen(position, WINDOW) if WINDOW else shared
    return first_key, size, (first_key - shared) // size, (position - shared) // size


@triton.jit(do_not_specialize=["num_seqs", "num_parts"])
def merge(
    starts, lens, sinks, out_THD, lse_out, shared_lens, sums_in, stats_in, num_seqs, num_parts,
    WINDOW: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr,
    SPLIT: tl.constexpr, MAX_SPLITS: tl.constexpr, BY_ROW: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Adds up the parts of one query and head, sixteen at a time, in their order: [item, head]."""
    item = tl.program_id(0)
    head = tl.program_id(1)
    seq, row, position = row_of(item, starts, lens, num_seqs, BY_ROW)
    if position < 0:
        return
    shared, shared_parts = shared_of(shared_lens, seq, SPLIT, MAX_SPLITS)
    _, _, first_part, last_split = splits_of(position, shared, WINDOW, SPLIT, MAX_SPLITS)
    last_part = shared_parts + last_split
    if first_part == last_part:
        return
    d = tl.arange(0, BLOCK_D)
    acc = tl.zeros([BLOCK_D], tl.float32)
    total = 0.0
    top = -float("inf")
    if sinks is not None:
        total = 1.0
        top = tl.load(sinks + head).to(tl.float32) * LOG2_E
    for base in range(first_part, last_part + 1, 16):
        index = base + tl.arange(0, 16)
        there = index <= last_part
        part = (item.to(tl.int64) * num_parts + index) * HEADS + head
        totals = tl.load(stats_in + part * 2, mask=there, other=0.0)
        tops = tl.load(stats_in + part * 2 + 1, mask=there, other=-float("inf"))
        sums = tl.load(sums_in + part[:, None] * D + d[None, :], mask=there[:, None] & (d < D)[None, :], other=0.0)
        new_top = tl.maximum(top, tl.max(tops, 0))
        weight = tl.exp2(tops - new_top)
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(totals * weight, 0)
        acc = acc * shrink + tl.sum(sums * weight[:, None], 0)
        top = new_top
    row_head = row.to(tl.int64) * HEADS + head
    tl.store(out_THD + row_head * D + d, (acc / total).to(out_THD.dtype.element_ty), mask=d < D)
    if lse_out is not None:
        tl.store(lse_out + row_head, logarithm(top, total))
