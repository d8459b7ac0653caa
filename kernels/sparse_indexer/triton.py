"""The indexer of sparse attention in Triton. Scores are made by tiles of keys, whose heads are rows of a product; torch
finds the largest. A score does not depend on the batch."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention_tile.splits_triton import owner_of
from kernels.paged_attention.spec import AttentionLayout
from kernels.sparse_indexer.spec import IndexSpec

__all__ = ["BLOCK_H", "choose_tokens", "index_rotary", "launch"]

BLOCK_H = 16
MOST_SCORES = 1 << 26  # in memory at a time


def index_rotary(
    q_THD: Tensor, k_TD: Tensor, cache: Tensor, positions_T: Tensor, slots_T: Tensor, spec: IndexSpec
) -> None:
    num_tokens, num_heads, dim = q_THD.shape
    assert q_THD.is_contiguous() and k_TD.stride(1) == 1 and cache.is_contiguous()
    if not num_tokens:
        return
    rope_dim = spec.cos_sin_CR.shape[1]
    _index_rotary[num_tokens, 1 + triton.cdiv(num_heads, BLOCK_H)](
        q_THD, k_TD, spec.norm_weight_D, spec.norm_bias_D, spec.cos_sin_CR, positions_T, slots_T, cache,
        k_TD.stride(0), spec.eps, HEADS=num_heads, D=dim, R=rope_dim, ROW=cache.shape[3], BLOCK_H=BLOCK_H,
        BLOCK_D=triton.next_power_of_2(dim), BLOCK_R=triton.next_power_of_2(rope_dim // 2), num_warps=4,
    )  # fmt: skip


def choose_tokens(q_THD: Tensor, weight_TH: Tensor, cache: Tensor, layout: AttentionLayout, top_k: int) -> Tensor:
    num_tokens, num_heads, dim = q_THD.shape
    num_seqs, width = layout.block_table_SW.shape
    block_size, row_dim = cache.shape[2:]
    assert all(x.is_contiguous() for x in (q_THD, weight_TH, cache, layout.block_table_SW))
    most = width * block_size
    num_chosen = min(top_k, most)
    chosen_TK = torch.zeros((num_tokens, num_chosen), dtype=torch.int32, device=q_THD.device)
    if not num_seqs:
        return chosen_TK
    config = launch(dim, num_heads, q_THD.dtype)
    rows = max(1, MOST_SCORES // most)
    for first in range(0, num_tokens, rows):
        count = min(rows, num_tokens - first)
        scores_TC = torch.empty((count, most), dtype=torch.float32, device=q_THD.device)
        _scores[count, triton.cdiv(most, config["BLOCK_N"])](
            q_THD, weight_TH, cache, layout.query_starts, layout.seq_lens_S, layout.block_table_SW, scores_TC,
            first, num_seqs, width, most, top_k, HEADS=num_heads, D=dim, ROW=row_dim, PAGE=block_size, **config,
        )  # fmt: skip
        best, found_TK = scores_TC.topk(num_chosen, sorted=False)
        found_TK = found_TK.masked_fill(best == -torch.inf, most).sort().values
        chosen_TK[first : first + count] = found_TK.masked_fill(found_TK == most, 0)
    return chosen_TK


def launch(dim: int, num_heads: int, dtype: torch.dtype) -> dict[str, int]:
    return {
        "BLOCK_H": max(16, min(64, triton.next_power_of_2(num_heads))),
        "BLOCK_N": 32 if dtype == torch.float32 else 64,
        "BLOCK_D": max(16, triton.next_power_of_2(dim)),
        "num_warps": 4,
        "num_stages": 2,
    }


@triton.jit
def _index_rotary(
    q, k, norm_weight, norm_bias, cos_sin, positions, slots, cache, k_stride, eps,
    HEADS: tl.constexpr, D: tl.constexpr, R: tl.constexpr, ROW: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """[token, 0 for the key, then groups of heads]."""
    token = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    i = tl.arange(0, BLOCK_R)
    half: tl.constexpr = R // 2
    turn = cos_sin + tl.load(positions + token) * R
    cosine = tl.load(turn + i, mask=i < half, other=0.0)
    sine = tl.load(turn + half + i, mask=i < half, other=0.0)
    if group > 0:
        h = (group - 1) * BLOCK_H + tl.arange(0, BLOCK_H)
        at = q + (token * HEADS + h[:, None]) * D + i[None, :]
        inside = (h < HEADS)[:, None] & (i < half)[None, :]
        a = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(at + half, mask=inside, other=0.0).to(tl.float32)
        tl.store(at, (a * cosine[None, :] - b * sine[None, :]).to(q.dtype.element_ty), mask=inside)
        tl.store(at + half, (b * cosine[None, :] + a * sine[None, :]).to(q.dtype.element_ty), mask=inside)
        return
    slot = tl.load(slots + token)
    if slot < 0:
        return
    row = k + token * k_stride
    to = cache + slot * ROW + ROW - D
    d = tl.arange(0, BLOCK_D)
    x = tl.load(row + d, mask=d < D, other=0.0).to(tl.float32)
    mean = tl.sum(x, 0) / D
    centered = tl.where(d < D, x - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centered * centered, 0) / D + eps)
    weight = tl.load(norm_weight + d, mask=d < D, other=0.0)
    normed = centered * scale * weight + tl.load(norm_bias + d, mask=d < D, other=0.0)
    tl.store(to + d, normed.to(cache.dtype.element_ty), mask=(d >= R) & (d < D))
    first = tl.load(row + i, mask=i < half, other=0.0).to(tl.float32) - mean
    second = tl.load(row + half + i, mask=i < half, other=0.0).to(tl.float32) - mean
    first = first * scale * tl.load(norm_weight + i, mask=i < half, other=0.0)
    second = second * scale * tl.load(norm_weight + half + i, mask=i < half, other=0.0)
    first = (first + tl.load(norm_bias + i, mask=i < half, other=0.0)).to(k.dtype.element_ty).to(tl.float32)
    second = (second + tl.load(norm_bias + half + i, mask=i < half, other=0.0)).to(k.dtype.element_ty).to(tl.float32)
    tl.store(to + i, (first * cosine - second * sine).to(cache.dtype.element_ty), mask=i < half)
    tl.store(to + half + i, (second * cosine + first * sine).to(cache.dtype.element_ty), mask=i < half)


@triton.jit(do_not_specialize=["first", "num_seqs", "width", "most", "top_k"])
def _scores(
    q, weights, cache, starts, lens, table, scores, first, num_seqs, width, most, top_k,
    HEADS: tl.constexpr, D: tl.constexpr, ROW: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """[row, tile of keys]. Of keys that the row does not see the score is -inf; where it may choose all, else 0."""
    row = first + tl.program_id(0)
    seq, position = owner_of(row, starts, lens, num_seqs)
    key = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    there = key <= position
    d = tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_N], tl.float32)
    if (tl.program_id(1) * BLOCK_N <= position) & (position >= top_k):
        page = tl.load(table + seq.to(tl.int64) * width + key // PAGE, mask=there, other=0).to(tl.int64)
        slot = (page * PAGE + key % PAGE) * ROW + ROW - D
        keys = tl.load(cache + slot[:, None] + d[None, :], mask=there[:, None] & (d < D)[None, :], other=0.0)
        for base in range(0, HEADS, BLOCK_H):
            head = base + tl.arange(0, BLOCK_H)
            at = row.to(tl.int64) * HEADS + head
            inside = (head < HEADS)[:, None] & (d < D)[None, :]
            queries = tl.load(q + at[:, None] * D + d[None, :], mask=inside, other=0.0)
            weight = tl.load(weights + at, mask=head < HEADS, other=0.0)
            product = tl.dot(queries, keys.T, input_precision="tf32x3")
            total += tl.sum(tl.maximum(product, 0.0) * weight[:, None], 0)
    out = scores + tl.program_id(0).to(tl.int64) * most + key
    tl.store(out, tl.where(there, total, -float("inf")), mask=key < most)
