"""Captures work on a GPU as a CUDA graph, and leaves the process fit to go on where that fails.

Before torch 2.12 a capture that CUDA ends with an error leaves torch's caching allocator as if it still went on: the
next time that memory is short, or is given back, an internal assertion fails (pytorch/pytorch#180395). What torch
leaves out is done here then: the pool's capture is ended, the stream of before is the current one again, and later
graphs take their memory from another pool.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Capture", "CaptureError", "CudaCapture", "CudaMemory", "Run", "cuda_capture"]

Run = Callable[[], Tensor]
Capture = Callable[[Run], Run]  # what it returns does the same work again and gives the same tensor


class CaptureError(RuntimeError):
    """The work was computed, but could not be recorded. Everything else goes on as before."""


class CudaCapture:
    """CUDA graphs, which share their scratch memory: only one may run at a time."""

    def __init__(self, device: torch.device, cuda: Any = torch.cuda, allocator: Any = torch._C) -> None:
        self._device, self._cuda, self._allocator = device, cuda, allocator
        self._stream = cuda.Stream(device)
        self._pool = cuda.graph_pool_handle()
        self._alive: weakref.WeakSet[_Replay] = weakref.WeakSet()  # of this pool
        self._failed: list[Any] = []  # torch goes on asking these for whom pinned memory is

    def __call__(self, run: Run) -> Run:
        """Raises CaptureError. What `run` itself raises, before anything is recorded, is raised as it is."""
        cuda = self._cuda
        before = cuda.current_stream(self._device)
        self._stream.wait_stream(before)
        with cuda.stream(self._stream):
            run()  # compiles what has not been, and lets libraries allocate
        cuda.synchronize(self._device)
        if not self._alive:  # torch does not take a pool again that all graphs have left
            self._pool = cuda.graph_pool_handle()
        graph = cuda.CUDAGraph()
        try:
            with cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                out = run()
        except Exception as error:  # of any kind: a kernel, torch and CUDA may refuse to be recorded
            cuda.set_stream(before)
            self._clean_up(graph)
            raise CaptureError(f"{type(error).__name__}: {error}") from error
        replay = _Replay(graph, out)
        self._alive.add(replay)
        return replay

    def _clean_up(self, graph: Any) -> None:
        """Raises RuntimeError where the process cannot go on."""
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
    """A card's memory, as far as graphs are concerned."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free_bytes(self) -> int:
        """What the driver could give out now, the caching allocator's spare memory included."""
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self._device)[0]

    def driver_bytes(self) -> int:
        """What is taken outside the caching allocator: graphs are, beside what others and libraries have."""
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free - torch.cuda.memory_reserved(self._device)
