"""Weight memory: where packed weights lie, in memory of this process alone or in a mapped file that others share."""

import ctypes
import mmap
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["PrivateMemory", "WeightMemory"]


class WeightMemory(Protocol):
    def place(self, layout: str, num_bytes: int, pack: Callable[[], Tensor]) -> Tensor:
        """`num_bytes` bytes that begin with those of `pack()`, which may not be called. Nobody writes to them.

        layout   names the class and the sizes of the packed matrix: equal for what is laid out alike
        """
        ...


class PrivateMemory:
    """Of this process, on huge pages where there are some."""

    def place(self, layout: str, num_bytes: int, pack: Callable[[], Tensor]) -> Tensor:
        packed = pack()
        memory = torch.empty(num_bytes, dtype=torch.uint8)
        _advise_huge_pages(memory)
        memory[: packed.nbytes].view(packed.dtype).view(packed.shape).copy_(packed)
        return memory


def _advise_huge_pages(memory: Tensor) -> None:
    """For memory that nobody has written yet: a step reads all weights, and address translation of small pages costs a
    good part of the bandwidth. Where there are none, nothing changes.
    """
    if hasattr(mmap, "MADV_HUGEPAGE"):
        start = -(-memory.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        stop = (memory.data_ptr() + memory.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if stop > start:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), mmap.MADV_HUGEPAGE)
