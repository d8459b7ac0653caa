"""GGUF's quantized blocks (Q4_0, Q4_1, Q4_K, Q5, Q8_0) as group-quantized integers of 4 or 8 bits, groups of 32.

Block layouts are ggml's (ggml-common.h, ggml-quants.c; gguf-py's `quants` reads them too).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from engine.checkpoint.gguf_file import TENSOR_TYPES
from kernels.quantized_linear.reference import GroupQuantized

__all__ = ["INTS", "read_group_quantized"]


@dataclass(frozen=True)
class _Numbers:
    """N blocks of g groups: integers [N, g * 32] int8; factors and offsets [N, g], fp16 or products of it in fp32."""

    ints: np.ndarray
    factors: np.ndarray
    offsets: np.ndarray | None = None
    least: int = 0
    bits: int = 4


def read_group_quantized(kind: str, data: np.ndarray, shape: tuple[int, ...]) -> GroupQuantized:
    """kind   one of INTS
    data   [num_bytes] uint8, whole blocks
    shape  [O, I] of the matrix
    """
    numbers = INTS[kind](data.reshape(-1, BLOCK_BYTES[kind]))

    def groups(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values.reshape(shape[0], -1))

    ints = torch.from_numpy(np.ascontiguousarray(numbers.ints).reshape(shape))
    offsets = None if numbers.offsets is None else groups(numbers.offsets)
    return GroupQuantized(ints, groups(numbers.factors), offsets, numbers.least, numbers.bits)


def _q4_0(blocks: np.ndarray) -> _Numbers:
    return _Numbers(_low_then_high(blocks[:, 2:]) - np.int8(8), _halfs(blocks[:, :2]), least=-8)


def _q4_1(blocks: np.ndarray) -> _Numbers:
    return _Numbers(_low_then_high(blocks[:, 4:]), _halfs(blocks[:, :2]), _halfs(blocks[:, 2:4]))


def _q5_0(blocks: np.ndarray) -> _Numbers:
    ints = _low_then_high(blocks[:, 6:]) + _fifth_bits(blocks[:, 2:6]) - np.int8(16)
    return _Numbers(ints, _halfs(blocks[:, :2]), least=-128, bits=8)


def _q5_1(blocks: np.ndarray) -> _Numbers:
    ints = _low_then_high(blocks[:, 8:]) + _fifth_bits(blocks[:, 4:8])
    return _Numbers(ints, _halfs(blocks[:, :2]), _halfs(blocks[:, 2:4]), least=-128, bits=8)


def _q8_0(blocks: np.ndarray) -> _Numbers:
    return _Numbers(blocks[:, 2:].view(np.int8), _halfs(blocks[:, :2]), least=-128, bits=8)


def _q4_k(blocks: np.ndarray) -> _Numbers:
    # 32 bytes have one group in their low nibbles, the next in their high ones
    codes = _low_then_high(blocks[:, 16:].reshape(-1, 32)).reshape(len(blocks), -1)
    return _Numbers(codes, *_of_eight_groups(blocks))


def _q5_k(blocks: np.ndarray) -> _Numbers:
    codes = _low_then_high(blocks[:, 48:].reshape(-1, 32)).reshape(len(blocks), -1)
    # byte i has the fifth bits of all groups' i-th numbers
    fifth = blocks[:, 16:48, None] >> np.arange(8, dtype=np.uint8) & 1
    fifth = (fifth << 4).transpose(0, 2, 1).reshape(len(blocks), -1).view(np.int8)
    return _Numbers(codes + fifth, *_of_eight_groups(blocks), least=-128, bits=8)


def _of_eight_groups(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors and offsets of Q4_K and Q5_K: 6-bit integers times the block's own factor."""
    packed = blocks[:, 4:16]
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate((first & 63, third & 15 | first >> 6 << 4), axis=1)
    mins = np.concatenate((second & 63, third >> 4 | second >> 6 << 4), axis=1)
    factor, least = (_halfs(part).astype(np.float32) for part in (blocks[:, :2], blocks[:, 2:4]))
    return factor * scales, -least * mins


INTS: Mapping[str, Callable[[np.ndarray], _Numbers]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
}
BLOCK_BYTES = {name: block_bytes for name, _, block_bytes in TENSOR_TYPES.values()}


def _low_then_high(data: np.ndarray) -> np.ndarray:
    return np.concatenate((data & 15, data >> 4), axis=1).view(np.int8)


def _fifth_bits(data: np.ndarray) -> np.ndarray:
    """[N, 4] bytes -> [N, 32] int8: 0 or 16."""
    return np.unpackbits(data, axis=1, bitorder="little").view(np.int8) << 4


def _halfs(data: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(data).view(np.float16)
