"""Puts keys and values where attention will find them."""

from torch import Tensor

__all__ = ["write_kv"]


def write_kv(k_TGD: Tensor, v_TGD: Tensor, k_cache: Tensor, v_cache: Tensor, slots_T: Tensor) -> None:
    """Stores this step's keys and values.

    k_TGD, v_TGD      [T, G, D]
    k_cache, v_cache  [N, G, P, D]   written in place
    slots_T           [T] int64      block * P + offset; -1 means padding and writes nothing
    """
    block_size = k_cache.shape[2]
    real_T = slots_T >= 0
    k_TGD, v_TGD, slots_T = k_TGD[real_T], v_TGD[real_T], slots_T[real_T]
    blocks, offsets = slots_T // block_size, slots_T % block_size
    k_cache[blocks, :, offsets] = k_TGD.to(k_cache.dtype)
    v_cache[blocks, :, offsets] = v_TGD.to(v_cache.dtype)
