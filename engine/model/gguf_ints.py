"""Blocks of a .gguf file that are 4-bit integers in groups of 32, as such.

How a block is laid out is ggml's to say (ggml-common.h, ggml-quants.c; read by gguf-py's `quants` too).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from engine.model.gguf_file import TENSOR_TYPES
from kernels.quantised_linear.reference import GroupedInts

__all__ = ["INTS", "grouped_ints"]


@dataclass(frozen=True)
class _Numbers:
    """Of N blocks with g groups each: codes [N, g * 32] in [0, 16), factors and offsets [N, g] fp32."""

    codes: np.ndarray
    factors: np.ndarray
    offsets: np.ndarray | None = None
    least: int = 0  # the integer that code 0 stands for


def grouped_ints(kind: str, data: np.ndarray, shape: tuple[int, ...]) -> GroupedInts:
    """kind   one of INTS
    data   [num_bytes] uint8, whole blocks
    shape  [O, I] of the matrix
    """
    numbers = INTS[kind](data.reshape(-1, BLOCK_BYTES[kind]))

    def groups(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values.reshape(shape[0], -1))

    ints = (numbers.codes.view(np.int8) + np.int8(numbers.least)).reshape(shape)
    offsets = None if numbers.offsets is None else groups(numbers.offsets)
    return GroupedInts(torch.from_numpy(ints), groups(numbers.factors), offsets, numbers.least)


def _q4_0(blocks: np.ndarray) -> _Numbers:
    return _Numbers(_low_then_high(blocks[:, 2:]), _halfs(blocks[:, :2]), least=-8)


def _q4_1(blocks: np.ndarray) -> _Numbers:
    return _Numbers(_low_then_high(blocks[:, 4:]), _halfs(blocks[:, :2]), _halfs(blocks[:, 2:4]))


def _q4_k(blocks: np.ndarray) -> _Numbers:
    """Eight groups, whose factors and offsets are 6-bit integers times a number of the block's."""
    packed = blocks[:, 4:16]
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate((first & 63, third & 15 | first >> 6 << 4), axis=1)
    mins = np.concatenate((second & 63, third >> 4 | second >> 6 << 4), axis=1)
    # 32 bytes have one group in their low halves, the next in their high ones
    codes = _low_then_high(blocks[:, 16:].reshape(-1, 32)).reshape(len(blocks), -1)
    return _Numbers(codes, _halfs(blocks[:, :2]) * scales, -_halfs(blocks[:, 2:4]) * mins)


INTS: Mapping[str, Callable[[np.ndarray], _Numbers]] = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q4_K": _q4_k}
BLOCK_BYTES = {name: block_bytes for name, _, block_bytes in TENSOR_TYPES.values()}


def _low_then_high(data: np.ndarray) -> np.ndarray:
    return np.concatenate((data & 15, data >> 4), axis=1)


def _halfs(data: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(data).view(np.float16).astype(np.float32)
