"""All-reduce and gather over the processes of one machine, through shared memory. In C."""

import ctypes
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.native.compiler import Compiler
from kernels.native.segment import Segment

__all__ = ["ShmCollectives"]

LINE = 64
CAPACITY = 1 << 20  # bytes of one piece; larger tensors go in several


class ShmCollectives:
    """One rank's end. All ranks must make the same calls with the same shapes, in the same order.

    A call raises RuntimeError when a rank is gone (`give_up`) or does not come within `timeout_s`.
    """

    name = "shared memory"
    in_order = True

    def __init__(self, compiler: Compiler, name: str, rank: int, size: int, timeout_s: float) -> None:
        """Rank 0 makes the segment `name`, the others open it."""
        self._segment = Segment(name, LINE * (1 + size) + 2 * size * CAPACITY, is_maker=rank == 0)
        self._lock = threading.Lock()  # between giving up and closing
        library = compiler.load(Path(__file__).with_name("cpu.c"))
        self._sum, self._gather, self._give_up = library.shm_collectives, library.shared_gather, library.give_up
        place: list[Any] = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64]
        self._sum.argtypes = [*place, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_double]
        self._gather.argtypes = [*place, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_double]
        self._give_up.argtypes = [ctypes.c_void_p]
        self._give_up.restype = None
        self._place = (self._segment.address, rank, size, CAPACITY)
        self._rank, self._size, self._timeout_s = rank, size, timeout_s

    def sum(self, x: Tensor) -> None:
        """Adds up x, contiguous bfloat16 or float32, over all ranks, in place."""
        is_float = x.dtype == torch.float32
        _raise(self._sum(*self._place, x.data_ptr(), x.numel(), is_float, self._timeout_s))

    def gather(self, x: Tensor) -> Tensor | None:
        """At rank 0 every rank's x, [size, *x.shape]; None elsewhere. x is contiguous."""
        out = x.new_empty((self._size, *x.shape)) if self._rank == 0 else None
        target = out.data_ptr() if out is not None else None
        num_bytes = x.numel() * x.element_size()
        _raise(self._gather(*self._place, x.data_ptr(), num_bytes, target, self._timeout_s))
        return out

    def give_up(self) -> None:
        """Nobody waits any more, here or in the other ranks."""
        with self._lock:
            if self._segment.address is not None:
                self._give_up(self._segment.address)

    def forget_name(self) -> None:
        """Every rank has come."""
        self._segment.forget_name()

    def close(self) -> None:
        """Gives the memory back. No call but `give_up` may follow."""
        with self._lock:
            self._segment.close()


def _raise(failed: int) -> None:
    if failed:
        raise RuntimeError("another rank is gone" if failed == 1 else "another rank does not answer")
