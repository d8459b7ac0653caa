"""The latent's RMS norm, decoupled RoPE and cache write of multi-head latent attention, as one step. The reference."""

from torch import Tensor

from kernels.latent_rotary.spec import LatentRotarySpec
from kernels.rms_norm.reference import rms_norm
from kernels.rotary.reference import rotary

__all__ = ["latent_rotary"]


def latent_rotary(
    q_THX: Tensor, kv_TX: Tensor, cache: Tensor, positions_T: Tensor, slots_T: Tensor, spec: LatentRotarySpec
) -> None:
    """Rotates the queries in place, and stores this step's rows.

    q_THX        [T, H, X]      L dimensions that match the latent, which stay, and R that are rotated, in place
    kv_TX        [T, X]         the latent before its norm, and the key before its rotation
    cache        [N, 1, P, X']  written in place: normed latent, rotated key; what is behind these stays
    positions_T  [T] int64
    slots_T      [T] int64      block * P + offset; -1 means padding and writes nothing
    """
    rank, block_size = len(spec.norm_L), cache.shape[2]
    latent_TX = kv_TX.clone()
    latent_TX[:, :rank] = rms_norm(kv_TX[:, :rank], spec.norm_L, spec.eps)
    latent_TX[:, rank:] = rotary(kv_TX[:, None, rank:], spec.cos_sin_CR, positions_T)[:, 0]
    real_T = slots_T >= 0
    slots_T = slots_T[real_T]
    cache[slots_T // block_size, 0, slots_T % block_size, : kv_TX.shape[1]] = latent_TX[real_T]
    q_THX[..., rank:] = rotary(q_THX[..., rank:], spec.cos_sin_CR, positions_T)
