"""QK norm, RoPE and KV cache write in Triton, for contiguous tensors. A program does some heads of one token."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import measured
from kernels.qkv_rotary.spec import QkvSpec

__all__ = ["launch", "qkv_rotary"]


def qkv_rotary(
    qkv_TX: Tensor,
    cache: tuple[Tensor, Tensor],
    positions_T: Tensor,
    slots_T: Tensor,
    spec: QkvSpec,
    squares_T2: Tensor | None = None,
) -> Tensor:
    k_cache, v_cache = cache
    q_norm_D, k_norm_D, eps, cos_sin_CR = spec.q_norm_D, spec.k_norm_D, spec.eps, spec.cos_sin_CR
    _, num_kv_heads, block_size, head_dim = k_cache.shape
    assert all(x.is_contiguous() for x in (qkv_TX, cos_sin_CR, k_cache, v_cache))
    num_tokens, width = qkv_TX.shape
    num_heads = width // head_dim - 2 * num_kv_heads
    q_THD = qkv_TX.new_empty((num_tokens, num_heads, head_dim))
    if not num_tokens:
        return q_THD
    config = launch(head_dim, qkv_TX.device)
    _qkv_rotary[num_tokens, triton.cdiv(num_heads + 2 * num_kv_heads, config["BLOCK_H"])](
        qkv_TX,
        cos_sin_CR if q_norm_D is None else q_norm_D,  # one that is not read
        cos_sin_CR if k_norm_D is None else k_norm_D,
        cos_sin_CR,
        positions_T,
        slots_T,
        k_cache,
        v_cache,
        spec.k_scale_G,
        spec.v_scale_G,
        squares_T2,
        q_THD,
        eps,
        NORM_Q=q_norm_D is not None,
        NORM_K=k_norm_D is not None,
        HEADS=num_heads,
        KV_HEADS=num_kv_heads,
        D=head_dim,
        PAGE=block_size,
        R=cos_sin_CR.shape[1],
        **config,
    )
    return q_THD


def launch(head_dim: int, device: torch.device) -> dict[str, int]:
    block = triton.next_power_of_2(head_dim)
    config = {"BLOCK_H": max(1, 2048 // block), "num_warps": 4, "num_stages": 1}
    return {**config, **measured(__file__, device).get(f"D={head_dim}", {}), "BLOCK_D": block}


@triton.jit
def _qkv_rotary(
    qkv, q_norm, k_norm, cos_sin, positions, slots, k_cache, v_cache, k_scale, v_scale, squares, q_out, eps,
    NORM_Q: tl.constexpr, NORM_K: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr,
    PAGE: tl.constexpr, R: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """[token, group of heads]. A value and its partner in the turned pair are both read, so that no lane waits."""
    token = tl.program_id(0).to(tl.int64)
    h = (tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H))[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    is_query = h < HEADS
    is_key = (h >= HEADS) & (h < HEADS + KV_HEADS)
    is_value = (h >= HEADS + KV_HEADS) & (h < HEADS + 2 * KV_HEADS)
    inside = (h < HEADS + 2 * KV_HEADS) & (d < D)
    partner = tl.where(d < R // 2, d + R // 2, tl.where(d < R, d - R // 2, d))
    at = qkv + (token * (HEADS + 2 * KV_HEADS) + h) * D
    raw = tl.load(at + d, mask=inside, other=0.0)
    x = raw.to(tl.float32)
    pair = tl.load(at + partner, mask=inside, other=0.0).to(tl.float32)
    if NORM_Q or NORM_K:
        q_weight = q_norm
        k_weight = k_norm
        if squares is not None:
            scale = tl.rsqrt(tl.load(squares + token * 2 + tl.where(is_query, 0, 1)) + eps)
            q_weight += h * D
            k_weight += (h - HEADS) * D
        else:
            scale = tl.rsqrt(tl.sum(x * x, 1) / D + eps)[:, None]
        normed = (is_query & NORM_Q) | (is_key & NORM_K)
        x_weight = tl.full([1, BLOCK_D], 1.0, tl.float32)
        pair_weight = x_weight
        if NORM_Q:
            used = is_query & (d < D)
            x_weight = tl.where(is_query, tl.load(q_weight + d, mask=used, other=0.0).to(tl.float32), x_weight)
            pair_weight = tl.where(is_query, tl.load(q_weight + partner, mask=used, other=0.0), pair_weight)
        if NORM_K:
            used = is_key & (d < D)
            x_weight = tl.where(is_key, tl.load(k_weight + d, mask=used, other=0.0).to(tl.float32), x_weight)
            pair_weight = tl.where(is_key, tl.load(k_weight + partner, mask=used, other=0.0), pair_weight)
        # the norm alone would round to the model's dtype
        x = tl.where(normed, (x * scale * x_weight).to(raw.dtype).to(tl.float32), x)
        pair = tl.where(normed, (pair * scale * pair_weight).to(raw.dtype).to(tl.float32), pair)
    turns = cos_sin + tl.load(positions + token) * R + tl.where(d < R // 2, d, d - R // 2)
    cos = tl.load(turns, mask=d < R, other=1.0)
    sin = tl.load(turns + R // 2, mask=d < R, other=0.0)
    turned = (x * cos + tl.where(d < R // 2, -pair, pair) * sin).to(raw.dtype)
    tl.store(q_out + (token * HEADS + h) * D + d, turned, mask=is_query & inside)
    slot = tl.load(slots + token)
    cached = (slot // PAGE * KV_HEADS) * PAGE + slot % PAGE
    written = inside & (slot >= 0)
    key_head = h - HEADS
    value_head = key_head - KV_HEADS
    key = _stored(turned, k_scale, key_head, is_key, k_cache.dtype.element_ty)
    value = _stored(raw, v_scale, value_head, is_value, v_cache.dtype.element_ty)
    tl.store(k_cache + (cached + key_head * PAGE) * D + d, key, mask=is_key & written)
    tl.store(v_cache + (cached + value_head * PAGE) * D + d, value, mask=is_value & written)


@triton.jit
def _stored(x, scale, head, inside, DTYPE: tl.constexpr):
    if scale is not None:
        x = x.to(tl.float32) / tl.load(scale + head, mask=inside, other=1.0)
    if DTYPE == tl.float8e4nv:
        x = tl.clamp(x.to(tl.float32), -448.0, 448.0)
    return x.to(DTYPE)
