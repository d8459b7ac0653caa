"""KV cache write: puts keys and values into their slots of the paged cache. The reference."""

import torch
from torch import Tensor

__all__ = ["write_kv"]


def write_kv(
    k_TGD: Tensor,
    v_TGD: Tensor,
    cache: tuple[Tensor, Tensor],
    slots_T: Tensor,
    k_scale_G: Tensor | None = None,
    v_scale_G: Tensor | None = None,
) -> None:
    """Stores this step's keys and values.

    k_TGD, v_TGD          [T, G, D]
    cache                 [N, G, P, D]   of keys, and of values: written in place; torch.float8_e4m3fn gets the nearest
                                         number that it has, at most 448
    slots_T               [T] int64      block * P + offset; -1 means padding and writes nothing
    k_scale_G, v_scale_G  [G] fp32       a KV head's keys and values are divided by these; None is 1
    """
    k_cache, v_cache = cache
    block_size = k_cache.shape[2]
    real_T = slots_T >= 0
    k_TGD, v_TGD, slots_T = k_TGD[real_T], v_TGD[real_T], slots_T[real_T]
    blocks, offsets = slots_T // block_size, slots_T % block_size
    k_cache[blocks, :, offsets] = _stored(k_TGD, k_scale_G, k_cache.dtype)
    v_cache[blocks, :, offsets] = _stored(v_TGD, v_scale_G, v_cache.dtype)


def _stored(x_TGD: Tensor, scale_G: Tensor | None, dtype: torch.dtype) -> Tensor:
    if scale_G is not None:
        x_TGD = x_TGD.float() / scale_G[:, None]
    if dtype == torch.float8_e4m3fn:
        most = torch.finfo(dtype).max
        x_TGD = x_TGD.clamp(-most, most)  # torch would make NaN of more
    return x_TGD.to(dtype)
