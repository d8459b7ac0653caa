"""CUDA graph capture that leaves the process usable if a capture fails.

Before torch 2.12 a capture that CUDA ends with an error leaves torch's caching allocator in the capturing state: an
internal assertion fails at the next out-of-memory or release (pytorch/pytorch#180395). This module does then what torch
leaves out: it ends the pool's capture, restores the current stream, and gives later graphs another pool.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Capture", "CaptureError", "CudaCapture", "CudaMemory", "Run", "cuda_capture"]

Run = Callable[[], Tensor]
Capture = Callable[[Run], Run]  # returns the replay, which gives the same tensor each time


class CaptureError(RuntimeError):
    """The work was computed, but could not be captured. The process is as before."""


class CudaCapture:
    """Captures CUDA graphs that share one memory pool: only one may run at a time."""

    def __init__(self, device: torch.device, cuda: Any = torch.cuda, allocator: Any = torch._C) -> None:
        self._device, self._cuda, self._allocator = device, cuda, allocator
        self._stream = cuda.Stream(device)
        self._pool = cuda.graph_pool_handle()
        self._alive: weakref.WeakSet[_Replay] = weakref.WeakSet()  # of this pool
        self._failed: list[Any] = []  # kept alive: torch goes on asking them about pinned memory

    def __call__(self, run: Run) -> Run:
        """Captures `run` after one eager call of it, whose errors pass through. Raises CaptureError."""
        cuda = self._cuda
        before = cuda.current_stream(self._device)
        self._stream.wait_stream(before)
        with cuda.stream(self._stream):
            run()  # compiles kernels, and lets libraries allocate
        cuda.synchronize(self._device)
        if not self._alive:  # torch does not reuse a pool whose graphs are all gone
            self._pool = cuda.graph_pool_handle()
        graph = cuda.CUDAGraph()
        try:
            with cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                out = run()
        except Exception as error:  # of any kind: a kernel, torch and CUDA may refuse capture
            cuda.set_stream(before)
            self._clean_up(graph)
            raise CaptureError(f"{type(error).__name__}: {error}") from error
        replay = _Replay(graph, out)
        self._alive.add(replay)
        return replay

    def _clean_up(self, graph: Any) -> None:
        """Ends a failed capture. Raises RuntimeError if the process is not usable any more."""
        self._failed.append(graph)
        index = self._cuda.current_device() if self._device.index is None else self._device.index
        try:
            self._allocator._cuda_endAllocateToPool(index, self._pool)
        except RuntimeError:
            pass  # torch has done it
        else:
            self._allocator._cuda_releasePool(index, self._pool)
            self._pool = self._cuda.graph_pool_handle()
            self._alive.clear()
        try:
            self._cuda.synchronize(self._device)
            self._cuda.empty_cache()
        except RuntimeError as error:
            raise RuntimeError(
                f"a failed capture of a CUDA graph cannot be undone, the process has to be started anew ({error})"
            ) from error


class _Replay:
    def __init__(self, graph: Any, out: Tensor) -> None:
        self._graph, self._out = graph, out

    def __call__(self) -> Tensor:
        self._graph.replay()
        return self._out


def cuda_capture(device: torch.device) -> Capture:
    return CudaCapture(device)


class CudaMemory:
    """A GPU's memory, as the CUDA graph cache asks for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free_bytes(self) -> int:
        """Bytes that can be allocated now, the caching allocator's unused ones included."""
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self._device)[0]

    def driver_bytes(self) -> int:
        """Bytes taken outside the caching allocator: by graphs, libraries and other processes."""
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free - torch.cuda.memory_reserved(self._device)
