"""Latent attention in Triton, for contiguous tensors. A program does some heads of one query: they all read one row of
the cache, so that a tile of heads is a tile of a matrix product, in prompts as in answers.

Where there are no more rows than sequences, keys are cut into splits as in kernels/paged_attention; with `cut=False`
none is, and a row has the same bits in any chunk.
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention_tile.splits_triton import merge, owner_of, splits_of
from kernels.attention_tile.triton import LOG2_E
from kernels.latent_attention.spec import LatentSpec
from kernels.paged_attention.spec import AttentionLayout

__all__ = ["latent_attention", "launch"]

# Keys of a split, and the most splits of a row: longer rows have longer splits. Changing either changes roundings.
SPLIT = 256
MAX_SPLITS = 32


def latent_attention(
    q_THX: Tensor, cache: Tensor, layout: AttentionLayout, spec: LatentSpec, cut: bool = True
) -> Tensor:
    query_starts, seq_lens_S, block_table_SW = layout.query_starts, layout.seq_lens_S, layout.block_table_SW
    num_tokens, num_heads, dim = q_THX.shape
    num_seqs, width = block_table_SW.shape
    block_size, rank = cache.shape[2], spec.rank
    assert all(x.is_contiguous() for x in (q_THX, cache, block_table_SW))
    out_THL = q_THX.new_empty((num_tokens, num_heads, rank))
    if not num_tokens or not num_seqs:
        return out_THL.zero_()
    cut = cut and num_tokens <= num_seqs
    num_parts = min(MAX_SPLITS, max(1, -(-width * block_size // SPLIT))) if cut else 1
    sums = torch.empty((num_tokens, num_parts, num_heads, rank) if num_parts > 1 else 1, device=q_THX.device)
    stats = torch.empty((num_tokens, num_parts, num_heads, 2) if num_parts > 1 else 1, device=q_THX.device)
    config = launch(rank, dim - rank, num_heads, q_THX.dtype)
    _latent_attention[num_tokens, triton.cdiv(num_heads, config["BLOCK_H"]), num_parts](
        q_THX, cache, query_starts, seq_lens_S, block_table_SW, out_THL, sums, stats, num_seqs, num_parts, width,
        spec.scale, HEADS=num_heads, L=rank, R=dim - rank, PAGE=block_size, ROW=cache.shape[3],
        SPLIT=SPLIT, MAX_SPLITS=MAX_SPLITS, CUT=cut, **config,
    )  # fmt: skip
    if num_parts > 1:
        merge[num_tokens, num_heads](
            query_starts, seq_lens_S, None, out_THL, None, None, sums, stats, num_seqs, num_parts, WINDOW=0,
            HEADS=num_heads, D=rank, SPLIT=SPLIT, MAX_SPLITS=MAX_SPLITS, BY_ROW=True,
            BLOCK_D=triton.next_power_of_2(rank), num_warps=4,
        )  # fmt: skip
    return out_THL


def launch(rank: int, rope_dim: int, num_heads: int, dtype: torch.dtype) -> dict[str, int]:
    wide = dtype == torch.float32
    return {
        "BLOCK_H": max(16, min(16 if wide else 64, triton.next_power_of_2(num_heads))),
        "BLOCK_N": 16 if wide else 32,
        "BLOCK_L": max(16, triton.next_power_of_2(rank)),
        "BLOCK_R": max(16, triton.next_power_of_2(rope_dim)),
        "num_warps": 8,
        "num_stages": 2,
    }


@triton.jit(do_not_specialize=["num_seqs", "num_parts", "width"])
def _latent_attention(
    q, cache, starts, lens, table, out, sums_out, stats_out, num_seqs, num_parts, width, scale,
    HEADS: tl.constexpr, L: tl.constexpr, R: tl.constexpr, PAGE: tl.constexpr,
    ROW: tl.constexpr, SPLIT: tl.constexpr, MAX_SPLITS: tl.constexpr, CUT: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """[row, group of heads, split]. A row that lies in one split is done; of others the parts are written."""
    split = tl.program_id(2)
    row = tl.program_id(0)
    seq, position = owner_of(row, starts, lens, num_seqs)
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    d = tl.arange(0, BLOCK_L)
    r = tl.arange(0, BLOCK_R)
    row_head = row.to(tl.int64) * HEADS + head
    is_latent = (head < HEADS)[:, None] & (d < L)[None, :]
    if position < 0:
        if split == 0:
            zero = tl.zeros([BLOCK_H, BLOCK_L], out.dtype.element_ty)
            tl.store(out + row_head[:, None] * L + d[None, :], zero, mask=is_latent)
        return
    begin = 0
    end = position + 1
    is_all = True
    if CUT:
        _, size, _, last_split = splits_of(position, 0, 0, SPLIT, MAX_SPLITS)
        if split > last_split:
            return
        begin = split * size
        end = tl.minimum(begin + size, position + 1)
        is_all = last_split == 0
    at = q + row_head[:, None] * (L + R)
    q_latent = tl.load(at + d[None, :], mask=is_latent, other=0.0)
    q_rotated = tl.load(at + L + r[None, :], mask=(head < HEADS)[:, None] & (r < R)[None, :], other=0.0)
    factor = scale * LOG2_E
    top = tl.full([BLOCK_H], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_H], tl.float32)
    acc = tl.zeros([BLOCK_H, BLOCK_L], tl.float32)
    pages = table + seq.to(tl.int64) * width
    for base in range(begin, end, BLOCK_N):
        key = base + tl.arange(0, BLOCK_N)
        there = key < end
        page = tl.load(pages + key // PAGE, mask=there, other=0).to(tl.int64)
        slot = (page * PAGE + key % PAGE) * ROW
        latent = tl.load(cache + slot[:, None] + d[None, :], mask=there[:, None] & (d < L)[None, :], other=0.0)
        rotated = tl.load(cache + slot[:, None] + L + r[None, :], mask=there[:, None] & (r < R)[None, :], other=0.0)
        score = tl.dot(q_latent, latent.T, input_precision="tf32x3")
        score = tl.dot(q_rotated, rotated.T, acc=score, input_precision="tf32x3")
        score = tl.where(there[None, :], score, -float("inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        weight = tl.exp2(score * factor - (new_top * factor)[:, None])
        shrink = tl.exp2((top - new_top) * factor)
        total = total * shrink + tl.sum(weight, 1)
        acc = acc * shrink[:, None] + tl.dot(weight.to(latent.dtype), latent, input_precision="tf32x3")
        top = new_top
    if is_all:
        made = (acc / total[:, None]).to(out.dtype.element_ty)
        tl.store(out + row_head[:, None] * L + d[None, :], made, mask=is_latent)
    else:
        part = (row.to(tl.int64) * num_parts + split) * HEADS + head
        tl.store(sums_out + part[:, None] * L + d[None, :], acc, mask=is_latent)
        tl.store(stats_out + part * 2, total, mask=head < HEADS)
        tl.store(stats_out + part * 2 + 1, top * factor, mask=head < HEADS)
