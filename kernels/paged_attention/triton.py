"""Paged attention in Triton, for contiguous tensors. Where a tile of keys lies in one block
(of 64 slots, say), it is copied by a tensor descriptor (TMA), else slot by slot.

A query that is its sequence's only one is cut along its keys, every other is not, whatever else is in the batch: a
row's bits depend on its own sequence alone. (Where there are no more rows than sequences, all are cut.) The same query
alone and in a chunk may differ by rounding; with `cut=False` none is cut, and a row has the same bits in any chunk.

Keys that a group of such queries shares are parts of their own, computed for the whole group at once: then bits depend
on the group. Windows and `cut=False` leave groups aside.

keys        0            shared           position
            |  for the group  |  for the query  |
parts         0     1     2     3     4     5        a split each; merge adds them up
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.attention_tile.splits_triton import last_not_after, merge, row_of, shared_of, split_size, splits_of
from kernels.attention_tile.triton import (
    attend,
    exponent_factor,
    first_scores,
    first_seen,
    head_scale,
    logarithm,
)
from kernels.launch import measured
from kernels.paged_attention.spec import AttentionLayout, AttentionSpec

__all__ = ["has_whole_tiles", "launch", "paged_attention"]

# Keys of a split, and the most splits of a row: longer rows have longer splits. Changing either changes roundings.
SPLIT = 256
MAX_SPLITS = 64


def paged_attention(
    q_THD: Tensor,
    cache: tuple[Tensor, Tensor],
    layout: AttentionLayout,
    spec: AttentionSpec,
    lse_out_TH: Tensor | None = None,
    cut: bool = True,
) -> Tensor:
    k_cache, v_cache = cache
    query_starts, seq_lens_S, block_table_SW = layout.query_starts, layout.seq_lens_S, layout.block_table_SW
    scale, window, soft_cap, prefixes = spec.scale, spec.reach, spec.soft_cap, layout.prefixes
    sinks_H, k_scale_G, v_scale_G = spec.sinks_H, spec.k_scale_G, spec.v_scale_G
    num_tokens, num_heads, head_dim = q_THD.shape
    _, num_kv_heads, block_size, _ = k_cache.shape
    num_seqs, width = block_table_SW.shape
    assert k_cache.dtype == v_cache.dtype and k_cache.dtype in (q_THD.dtype, torch.float8_e4m3fn)
    options = (sinks_H, k_scale_G, v_scale_G, lse_out_TH)
    assert all(x is None or x.is_contiguous() for x in (q_THD, k_cache, v_cache, block_table_SW, *options))
    by_row = cut and num_tokens <= num_seqs
    out_THD = torch.empty_like(q_THD) if by_row else torch.zeros_like(q_THD)
    if lse_out_TH is not None and not by_row:
        lse_out_TH.fill_(-torch.inf)
    num_items = min(num_tokens, num_seqs)
    if not num_items:
        return out_THD
    tensors = (k_scale_G, v_scale_G, query_starts, seq_lens_S, block_table_SW, sinks_H, out_THD, lse_out_TH)
    rules = {"WINDOW": window, "SOFT_CAP": soft_cap}
    shape = {"HEADS": num_heads, "KV_HEADS": num_kv_heads, "D": head_dim, "PAGE": block_size}
    group = num_heads // num_kv_heads
    case = head_dim, group, q_THD.dtype, k_cache.dtype, q_THD.device

    if cut:
        all_splits = max(1, -(-width * block_size // SPLIT))
        num_splits = min(MAX_SPLITS, all_splits)
        shared_lens, num_parts = None, num_splits
        if prefixes is not None and not window:
            shared_lens, num_parts = prefixes.shared_lens_S, min(2 * MAX_SPLITS, all_splits + 1)
        parts = (num_items, num_parts, num_heads)
        sums = torch.empty((*parts, head_dim), dtype=torch.float32, device=q_THD.device)
        stats = torch.empty((*parts, 2), dtype=torch.float32, device=q_THD.device)
        cuts = {"SPLIT": SPLIT, "MAX_SPLITS": MAX_SPLITS, "BY_ROW": by_row}
        config = launch("decode", *case)
        caches, tma = _readable((k_cache, v_cache), config)
        _decode[num_items, num_kv_heads, num_splits](
            q_THD, *caches, *tensors, shared_lens, sums, stats, num_seqs, num_parts, width, scale,
            **rules, **shape, **cuts, **config, TMA=tma,
        )  # fmt: skip
        if prefixes is not None and not window:
            config = launch("shared", *case)
            caches, tma = _readable((k_cache, v_cache), config)
            num_groups = len(prefixes.group_starts) - 1
            num_tiles = len(prefixes.members) // (config["BLOCK_M"] // group) + num_groups
            _shared[num_tiles, num_kv_heads, num_splits](
                q_THD, *caches, k_scale_G, v_scale_G, query_starts, block_table_SW, prefixes.group_starts,
                prefixes.members, shared_lens, sums, stats, num_groups, num_parts, width, scale,
                SOFT_CAP=soft_cap, **shape, **cuts, **config, TMA=tma,
            )  # fmt: skip
        if num_parts > 1:
            merge[num_items, num_heads](
                query_starts, seq_lens_S, sinks_H, out_THD, lse_out_TH, shared_lens, sums, stats, num_seqs, num_parts,
                **cuts, WINDOW=window, HEADS=num_heads, D=head_dim, **launch("merge", *case),
            )  # fmt: skip
    if not by_row:
        config = launch("ragged", *case)
        caches, tma = _readable((k_cache, v_cache), config)
        num_tiles = num_tokens // (config["BLOCK_M"] // group) + num_seqs
        _ragged[num_tiles, num_kv_heads](
            q_THD, *caches, *tensors, num_seqs, width, scale, **rules, **shape, LEAST=2 if cut else 1, **config, TMA=tma
        )
    return out_THD


@functools.cache
def launch(
    kernel: str, head_dim: int, group: int, dtype: torch.dtype, cache_dtype: torch.dtype, device: torch.device
) -> dict[str, int]:
    """How decode, shared, merge or ragged is launched, for `group` query heads on each KV head."""
    wide, converted = dtype == torch.float32, cache_dtype != dtype
    block_d = max(16, triton.next_power_of_2(head_dim))
    rows = max(16, triton.next_power_of_2(group))
    keys, stages = (32, 2) if wide or block_d > 128 else (64, 3)
    is_huge = block_d > 256  # then sums of 64 rows do not fit into registers, nor 32 keys in fp32 into shared memory
    keys = 16 if wide and is_huge else keys
    full = converted and block_d > 128  # of registers: what is converted goes through them
    most_rows = 32 if is_huge else 64 if wide or full else 128
    plain = not wide and not converted and block_d <= 128  # as measured on an H100 for heads of 64 and 128
    # of 5 stages keys and values have buffers of their own, for which two warps leave the room
    few = plain and rows == 16
    config = {
        "decode": {
            "BLOCK_M": rows,
            "BLOCK_N": keys,
            "num_warps": 8 if full else 2 if few else 4,
            "num_stages": 5 if few else stages,
        },
        "shared": {
            "BLOCK_M": max(32 if is_huge else 64, rows),
            "BLOCK_N": keys,
            "num_warps": 8 if block_d > 128 else 4,
            "num_stages": stages,
        },
        "merge": {"num_warps": 4, "num_stages": 1},
        "ragged": {
            "BLOCK_M": max(most_rows, rows),
            "BLOCK_N": 128 if plain and block_d <= 64 else keys,
            "num_warps": 8,
            "num_stages": stages,
        },
    }[kernel]
    case = f"{kernel} D={head_dim} group={group}{' fp8' if converted else ''}"
    return {**config, "BLOCK_D": block_d, **({} if wide else measured(__file__, device).get(case, {}))}


def has_whole_tiles(head_dim: int, block_size: int, dtype: torch.dtype, config: dict[str, int]) -> bool:
    """Whether a tile of keys lies in one block, where a tensor descriptor can find it."""
    return block_size % config["BLOCK_N"] == 0 and head_dim * dtype.itemsize % 16 == 0


def _readable(
    caches: tuple[Tensor, Tensor], config: dict[str, int]
) -> tuple[list[Tensor] | list[TensorDescriptor], bool]:
    """The caches as the kernels take them: as descriptors of tiles where these are whole, which is also said."""
    _, _, block_size, head_dim = caches[0].shape
    if not has_whole_tiles(head_dim, block_size, caches[0].dtype, config):
        return list(caches), False
    tile = [config["BLOCK_N"], config["BLOCK_D"]]
    return [TensorDescriptor.from_tensor(cache.view(-1, head_dim), tile) for cache in caches], True


@triton.jit(do_not_specialize=["num_seqs", "num_parts", "width"])
def _decode(
    q_THD, k_cache, v_cache, k_scale, v_scale, starts, lens, table, sinks, out_THD, lse_out, shared_lens,
    sums_out, stats_out, num_seqs, num_parts, width, scale,
    WINDOW: tl.constexpr, SOFT_CAP: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr,
    PAGE: tl.constexpr, TMA: tl.constexpr, SPLIT: tl.constexpr, MAX_SPLITS: tl.constexpr, BY_ROW: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One split of one query, for all query heads of a KV head: [item, KV head, split].

    A query that lies in one split is done; of others the parts are written: sums [D], their total, the largest score.
    """
    GROUP: tl.constexpr = HEADS // KV_HEADS
    item = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    seq, row, position = row_of(item, starts, lens, num_seqs, BY_ROW)
    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    inside = (m < GROUP)[:, None] & (d < D)[None, :]
    head = kv_head * GROUP + m
    row_head = row.to(tl.int64) * HEADS + head
    at = row_head[:, None] * D + d[None, :]
    if position < 0:
        if (position == -1) & (split == 0):
            tl.store(out_THD + at, tl.zeros([BLOCK_M, BLOCK_D], out_THD.dtype.element_ty), mask=inside)
            if lse_out is not None:
                tl.store(lse_out + row_head, tl.full([BLOCK_M], -float("inf"), tl.float32), mask=m < GROUP)
        return
    shared, shared_parts = shared_of(shared_lens, seq, SPLIT, MAX_SPLITS)
    first_key, size, first_split, last_split = splits_of(position, shared, WINDOW, SPLIT, MAX_SPLITS)
    if (split < first_split) | (split > last_split):
        return
    is_all = shared_parts + last_split == first_split
    begin = tl.maximum(shared + split * size, first_key // BLOCK_N * BLOCK_N)
    end = tl.minimum(shared + split * size + size, position + 1)
    q = tl.load(q_THD + at, mask=inside, other=0.0)
    scale *= head_scale(k_scale, kv_head)
    factor = exponent_factor(scale, SOFT_CAP)
    top, total = first_scores(sinks, head, (m < GROUP) & is_all, factor)  # of parts: see merge
    acc, top, total = attend(
        q, tl.zeros([BLOCK_M, BLOCK_D], tl.float32), top, total, begin, end, end,
        tl.zeros([BLOCK_M], tl.int32) + position, k_cache, v_cache, table + seq.to(tl.int64) * width, kv_head, scale,
        True, WINDOW, SOFT_CAP, KV_HEADS, D, PAGE, TMA, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    acc *= head_scale(v_scale, kv_head)
    if is_all:
        tl.store(out_THD + at, (acc / total[:, None]).to(out_THD.dtype.element_ty), mask=inside)
        if lse_out is not None:
            tl.store(lse_out + row_head, logarithm(top * factor, total), mask=m < GROUP)
    else:
        part = (item.to(tl.int64) * num_parts + shared_parts + split) * HEADS + head
        tl.store(sums_out + part[:, None] * D + d[None, :], acc, mask=inside)
        tl.store(stats_out + part * 2, total, mask=m < GROUP)
        tl.store(stats_out + part * 2 + 1, top * factor, mask=m < GROUP)


@triton.jit(do_not_specialize=["num_groups", "num_parts", "width"])
def _shared(
    q_THD, k_cache, v_cache, k_scale, v_scale, starts, table, group_starts, members, shared_lens, sums_out, stats_out,
    num_groups, num_parts, width, scale,
    SOFT_CAP: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr,
    PAGE: tl.constexpr, TMA: tl.constexpr, SPLIT: tl.constexpr, MAX_SPLITS: tl.constexpr, BY_ROW: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One split of what a group shares, for all query heads of a KV head of some of its queries.

    [tile, KV head, split]. Tiles of a group are as _ragged draws them; each row leaves a part, as in _decode.
    """
    GROUP: tl.constexpr = HEADS // KV_HEADS
    QUERIES: tl.constexpr = BLOCK_M // GROUP
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    group = last_not_after(group_starts, num_groups, tile, QUERIES)
    start = tl.load(group_starts + group)
    count = tl.load(group_starts + group + 1) - start
    first = (tile - (start // QUERIES + group)) * QUERIES
    if first >= count:
        return
    leader = tl.load(members + start).to(tl.int64)
    shared = tl.load(shared_lens + leader)
    size = split_size(shared, SPLIT, MAX_SPLITS)
    begin = split * size
    end = tl.minimum(begin + size, shared)
    if begin >= end:
        return
    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    is_row = (m < QUERIES * GROUP) & (first + m // GROUP < count)
    inside = is_row[:, None] & (d < D)[None, :]
    head = kv_head * GROUP + m % GROUP
    seq = tl.load(members + start + first + m // GROUP, mask=is_row, other=0)
    row = tl.load(starts + seq)
    q = tl.load(q_THD + (row.to(tl.int64) * HEADS + head)[:, None] * D + d[None, :], mask=inside, other=0.0)
    scale *= head_scale(k_scale, kv_head)
    limit = tl.zeros([BLOCK_M], tl.int32) + end - 1
    full_end = end // BLOCK_N * BLOCK_N
    pages = table + leader * width
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    top = tl.full([BLOCK_M], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc, top, total = attend(
        q, acc, top, total, begin, full_end, end, limit, k_cache, v_cache, pages, kv_head, scale,
        False, 0, SOFT_CAP, KV_HEADS, D, PAGE, TMA, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    acc, top, total = attend(
        q, acc, top, total, full_end, end, end, limit, k_cache, v_cache, pages, kv_head, scale,
        True, 0, SOFT_CAP, KV_HEADS, D, PAGE, TMA, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    acc *= head_scale(v_scale, kv_head)
    item = row if BY_ROW else seq
    part = (item.to(tl.int64) * num_parts + split) * HEADS + head
    tl.store(sums_out + part[:, None] * D + d[None, :], acc, mask=inside)
    tl.store(stats_out + part * 2, total, mask=is_row)
    tl.store(stats_out + part * 2 + 1, top * exponent_factor(scale, SOFT_CAP), mask=is_row)


@triton.jit(do_not_specialize=["num_seqs", "width"])
def _ragged(
    q_THD, k_cache, v_cache, k_scale, v_scale, starts, lens, table, sinks, out_THD, lse_out, num_seqs, width, scale,
    WINDOW: tl.constexpr, SOFT_CAP: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr,
    PAGE: tl.constexpr, TMA: tl.constexpr, LEAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Some queries of a sequence that has LEAST or more, for all query heads of a KV head: [tile, KV head].

    Sequence s has the tiles from starts[s] // QUERIES + s on, at least as many as it needs. Of two heads a group:

    tile row   0   1 | 2   3 | 4   5
    query        0   |   1   |   2
    head       a   b | a   b | a   b
    """
    GROUP: tl.constexpr = HEADS // KV_HEADS
    QUERIES: tl.constexpr = BLOCK_M // GROUP
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # the late ones have the most keys, and should not run last
    kv_head = tl.program_id(1)
    seq = last_not_after(starts, num_seqs, tile, QUERIES)
    start = tl.load(starts + seq)
    count = tl.load(starts + seq + 1) - start
    first = (tile - (start // QUERIES + seq)) * QUERIES
    if (count < LEAST) | (first >= count):
        return
    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    query = first + m // GROUP
    is_row = (m < QUERIES * GROUP) & (query < count)
    inside = is_row[:, None] & (d < D)[None, :]
    head = kv_head * GROUP + m % GROUP
    row_head = (start + query).to(tl.int64) * HEADS + head
    at = row_head[:, None] * D + d[None, :]
    q = tl.load(q_THD + at, mask=inside, other=0.0)
    pages = table + seq.to(tl.int64) * width

    # begin    edge        full_end    end
    #   |some see|   all see   | some see |
    past = tl.load(lens + seq) - count
    last = tl.minimum(first + QUERIES, count) - 1
    end = past + last + 1
    full_end = (past + first + 1) // BLOCK_N * BLOCK_N
    begin = 0
    edge = 0
    if WINDOW:
        begin = first_seen(past + first, WINDOW) // BLOCK_N * BLOCK_N
        edge = tl.minimum(tl.cdiv(first_seen(past + last, WINDOW), BLOCK_N) * BLOCK_N, end)
    limit = past + tl.minimum(query, last)  # rows past the last query do as it does, and are not written
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    scale *= head_scale(k_scale, kv_head)
    factor = exponent_factor(scale, SOFT_CAP)
    top, total = first_scores(sinks, head, is_row, factor)
    if WINDOW:
        acc, top, total = attend(
            q, acc, top, total, begin, edge, end, limit, k_cache, v_cache, pages, kv_head, scale,
            True, WINDOW, SOFT_CAP, KV_HEADS, D, PAGE, TMA, BLOCK_N, BLOCK_D,
        )  # fmt: skip
    acc, top, total = attend(
        q, acc, top, total, edge, full_end, end, limit, k_cache, v_cache, pages, kv_head, scale,
        False, WINDOW, SOFT_CAP, KV_HEADS, D, PAGE, TMA, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    acc, top, total = attend(
        q, acc, top, total, tl.maximum(edge, full_end), end, end, limit, k_cache, v_cache, pages, kv_head, scale,
        True, WINDOW, SOFT_CAP, KV_HEADS, D, PAGE, TMA, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    acc *= head_scale(v_scale, kv_head)
    tl.store(out_THD + at, (acc / total[:, None]).to(out_THD.dtype.element_ty), mask=inside)
    if lse_out is not None:
        tl.store(lse_out + row_head, logarithm(top * factor, total), mask=is_row)
