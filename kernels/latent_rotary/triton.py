"""The latent's RMS norm, decoupled RoPE and cache write in Triton. A program does the cached row, or some heads."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor

from kernels.latent_rotary.spec import LatentRotarySpec

__all__ = ["BLOCK_H", "latent_rotary"]

BLOCK_H = 16


def latent_rotary(
    q_THX: Tensor, kv_TX: Tensor, cache: Tensor, positions_T: Tensor, slots_T: Tensor, spec: LatentRotarySpec
) -> None:
    num_tokens, num_heads, dim = q_THX.shape
    assert q_THX.is_contiguous() and kv_TX.stride(1) == 1 and cache.is_contiguous() and cache.shape[3] >= dim
    if not num_tokens:
        return
    rank, rope_dim = len(spec.norm_L), spec.cos_sin_CR.shape[1]
    _latent_rotary[num_tokens, 1 + triton.cdiv(num_heads, BLOCK_H)](
        q_THX, kv_TX, spec.norm_L, spec.cos_sin_CR, positions_T, slots_T, cache, kv_TX.stride(0), spec.eps,
        HEADS=num_heads, L=rank, R=rope_dim, ROW=cache.shape[3], BLOCK_H=BLOCK_H, BLOCK_L=triton.next_power_of_2(rank),
        BLOCK_R=max(1, triton.next_power_of_2(rope_dim // 2)), num_warps=4,
    )  # fmt: skip


@triton.jit
def _latent_rotary(
    q, kv, norm, cos_sin, positions, slots, cache, kv_stride, eps,
    HEADS: tl.constexpr, L: tl.constexpr, R: tl.constexpr, ROW: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """[token, 0 for the cached row, then groups of heads]."""
    token = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    i = tl.arange(0, BLOCK_R)
    half: tl.constexpr = R // 2
    turn = cos_sin + tl.load(positions + token) * R
    cosine = tl.load(turn + i, mask=i < half, other=0.0)
    sine = tl.load(turn + half + i, mask=i < half, other=0.0)
    if group > 0:
        h = (group - 1) * BLOCK_H + tl.arange(0, BLOCK_H)
        at = q + (token * HEADS + h[:, None]) * (L + R) + L + i[None, :]
        inside = (h < HEADS)[:, None] & (i < half)[None, :]
        a = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(at + half, mask=inside, other=0.0).to(tl.float32)
        tl.store(at, (a * cosine[None, :] - b * sine[None, :]).to(q.dtype.element_ty), mask=inside)
        tl.store(at + half, (b * cosine[None, :] + a * sine[None, :]).to(q.dtype.element_ty), mask=inside)
        return
    slot = tl.load(slots + token)
    if slot < 0:
        return
    row = kv + token * kv_stride
    to = cache + slot * ROW
    d = tl.arange(0, BLOCK_L)
    x = tl.load(row + d, mask=d < L, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / L + eps)
    weight = tl.load(norm + d, mask=d < L, other=0.0)
    tl.store(to + d, (x * scale * weight).to(cache.dtype.element_ty), mask=d < L)
    a = tl.load(row + L + i, mask=i < half, other=0.0).to(tl.float32)
    b = tl.load(row + L + half + i, mask=i < half, other=0.0).to(tl.float32)
    tl.store(to + L + i, (a * cosine - b * sine).to(cache.dtype.element_ty), mask=i < half)
    tl.store(to + L + half + i, (b * cosine + a * sine).to(cache.dtype.element_ty), mask=i < half)
