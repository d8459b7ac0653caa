"""Dequantizes FP8, MXFP4 and other scaled small floats on their device, in chunks of rows to bound scratch memory."""

import functools

import torch
from torch import Tensor

__all__ = ["MXFP4_GROUP", "dequantize_float8", "dequantize_mxfp4"]

CHUNK = 1 << 22  # numbers dequantized at once on a GPU
CPU_CHUNK = 1 << 18  # on a CPU: as many as its cache holds
MXFP4_GROUP = 32  # numbers that share a scale
NUMBERS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of 4 bits (E2M1); the highest is the sign


def dequantize_mxfp4(blocks_OGB: Tensor, scales_OG: Tensor) -> Tensor:
    """[O, 32 G] in bfloat16, which holds every product exactly.

    blocks_OGB   [O, G, 16] uint8, two numbers a byte, the first in its low half
    scales_OG    uint8: E8M0, the power of 2 that multiplies a group, plus 127
    """
    num_out, num_groups, _ = blocks_OGB.shape
    pairs, powers = _mxfp4_tables(blocks_OGB.device)
    out = torch.empty((num_out, num_groups, MXFP4_GROUP), dtype=torch.bfloat16, device=blocks_OGB.device)
    for rows in _chunks(num_out, num_groups * MXFP4_GROUP, out.device):
        bytes_ = blocks_OGB[rows].reshape(-1).int()
        numbers = pairs.index_select(0, bytes_).view(torch.bfloat16).view(-1, num_groups, MXFP4_GROUP)
        factors = powers.index_select(0, scales_OG[rows].reshape(-1).int()).view(-1, num_groups, 1)
        torch.mul(numbers, factors, out=out[rows])
    return out.flatten(1)


@functools.cache
def _mxfp4_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """(int32 [256], the two numbers of a byte, in bfloat16; [256] bfloat16, the power of 2 of a scale)

    Numbers are doubled and powers halved, so that the largest power is finite and the least still exact.
    """
    numbers = 2 * torch.tensor([*NUMBERS, *(-number for number in NUMBERS)], dtype=torch.bfloat16)
    codes = torch.arange(256)
    pairs = numbers[torch.stack((codes & 15, codes >> 4), -1)].view(torch.int32).flatten()
    powers = torch.pow(2.0, codes - 128).bfloat16()
    return pairs.to(device), powers.to(device)


def dequantize_float8(weight_OI: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """[O, I] in `dtype`, multiplied in fp32.

    scale   per tensor, per row [O, 1], or per block: the block sizes follow from the shapes, the last blocks may be
            cut off
    """
    num_out, num_in = weight_OI.shape
    out = torch.empty((num_out, num_in), dtype=dtype, device=weight_OI.device)
    scale = scale.float()
    scale = scale.view(1, 1) if scale.numel() == 1 else scale.view(len(scale), -1)
    tall, wide = (-(-count // num) for count, num in zip(weight_OI.shape, scale.shape, strict=True))
    for rows in _chunks(num_out, num_in, out.device):
        row_of_scale = torch.arange(rows.start, rows.stop, device=scale.device) // tall
        factors = scale.index_select(0, row_of_scale)
        if factors.shape[1] > 1:
            factors = factors.repeat_interleave(wide, 1)[:, :num_in]
        out[rows] = weight_OI[rows].float() * factors
    return out


def _chunks(num_rows: int, width: int, device: torch.device) -> list[slice]:
    step = max(1, (CPU_CHUNK if device.type == "cpu" else CHUNK) // max(1, width))
    return [slice(start, min(num_rows, start + step)) for start in range(0, num_rows, step)]
