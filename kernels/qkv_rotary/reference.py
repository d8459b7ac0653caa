"""QK norm, RoPE and KV cache write: what happens between the qkv matrix and attention, as one step. The reference."""

import torch
from torch import Tensor

from kernels.qkv_rotary.spec import QkvSpec
from kernels.rms_norm.reference import rms_norm
from kernels.rotary.reference import rotary
from kernels.write_kv.reference import write_kv

__all__ = ["qkv_rotary"]


def qkv_rotary(
    qkv_TX: Tensor,
    cache: tuple[Tensor, Tensor],
    positions_T: Tensor,
    slots_T: Tensor,
    spec: QkvSpec,
    squares_T2: Tensor | None = None,
) -> Tensor:
    """Returns the queries [T, H, D] that attention takes, and stores keys and values.

    qkv_TX                [T, (H + 2 G) * D]: query heads, key heads, value heads; may be used as scratch
    positions_T           [T] int64
    slots_T               [T] int64, as in write_kv
    cache                 [N, G, P, D] of keys, and of values: written in place, as in write_kv
    spec                  norms, rotary table, scales of an FP8 cache
    squares_T2            [T, 2] fp32: norms are not over each head: these are the mean squares of a token's queries and
                          of its keys, and the weights are [H * D] and [G * D]
    """
    q_norm_D, k_norm_D, eps, cos_sin_CR = spec.q_norm_D, spec.k_norm_D, spec.eps, spec.cos_sin_CR
    _, num_kv_heads, _, head_dim = cache[0].shape
    qkv_TXD = qkv_TX.view(qkv_TX.shape[0], -1, head_dim)
    num_heads = qkv_TXD.shape[1] - 2 * num_kv_heads
    q_THD, k_TGD, v_TGD = torch.split(qkv_TXD, [num_heads, num_kv_heads, num_kv_heads], 1)
    if q_norm_D is not None:
        q_THD = _normed(q_THD, q_norm_D, eps, None if squares_T2 is None else squares_T2[:, 0])
    if k_norm_D is not None:
        k_TGD = _normed(k_TGD, k_norm_D, eps, None if squares_T2 is None else squares_T2[:, 1])
    k_TGD = rotary(k_TGD, cos_sin_CR, positions_T)
    write_kv(k_TGD, v_TGD, cache, slots_T, spec.k_scale_G, spec.v_scale_G)
    return rotary(q_THD, cos_sin_CR, positions_T)


def _normed(x_THD: Tensor, weight: Tensor, eps: float, squares_T: Tensor | None) -> Tensor:
    if squares_T is None:
        return rms_norm(x_THD, weight, eps)
    scaled = x_THD.float() * torch.rsqrt(squares_T + eps)[:, None, None]
    return (scaled * weight.float().view(x_THD.shape[1:])).to(x_THD.dtype)
