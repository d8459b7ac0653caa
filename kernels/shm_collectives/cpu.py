"""All-reduce and gather over the processes of one machine, through shared memory. In C."""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.native.compiler import Compiler
from kernels.native.shm_group import ShmGroup

__all__ = ["ShmCollectives"]

LINE = 64
CAPACITY = 1 << 20  # bytes of one piece; larger tensors go in several


class ShmCollectives(ShmGroup):
    """One rank's end. All ranks must make the same calls with the same shapes, in the same order.

    A call raises RuntimeError once the group is aborted, or when a rank does not come within `timeout_s`.
    """

    name = "shared memory"
    in_order = True

    def __init__(self, compiler: Compiler, name: str, rank: int, size: int, timeout_s: float) -> None:
        """Rank 0 makes the segment `name`, the others open it."""
        num_bytes = LINE * (1 + size) + 2 * size * CAPACITY
        super().__init__(compiler, Path(__file__).with_name("cpu.c"), name, rank, num_bytes)
        self._all_reduce, self._gather = self._library.shm_all_reduce, self._library.shm_gather
        group: list[Any] = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64]
        self._all_reduce.argtypes = [*group, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_double]
        self._gather.argtypes = [*group, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_double]
        self._group = (self._segment.address, rank, size, CAPACITY)
        self._rank, self._size, self._timeout_s = rank, size, timeout_s

    def all_reduce(self, x: Tensor) -> None:
        """Adds up x, contiguous bfloat16 or float32, over all ranks, in place."""
        is_float = x.dtype == torch.float32
        _raise(self._all_reduce(*self._group, x.data_ptr(), x.numel(), is_float, self._timeout_s))

    def gather(self, x: Tensor) -> Tensor | None:
        """At rank 0 every rank's x, [size, *x.shape]; None elsewhere. x is contiguous."""
        out = x.new_empty((self._size, *x.shape)) if self._rank == 0 else None
        target = out.data_ptr() if out is not None else None
        num_bytes = x.numel() * x.element_size()
        _raise(self._gather(*self._group, x.data_ptr(), num_bytes, target, self._timeout_s))
        return out


def _raise(failed: int) -> None:
    if failed:
        raise RuntimeError("another rank is gone" if failed == 1 else "another rank does not answer")
