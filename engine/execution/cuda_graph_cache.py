"""The CUDA graph cache: captured graphs by shape, within a memory budget; the least recently used one is evicted.

A shape that cannot be captured runs eagerly. Tensor-parallel ranks must call their collectives alike, so either all of
them replay a shape or none does, and all evict the same graphs: free memory and the outcome of every capture go through
an all-reduce (minimum).
"""

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from engine.device.cuda_capture import Capture, CaptureError, Run

__all__ = ["GRAPH_BYTES", "MAX_GRAPHS", "CudaGraphCache", "GraphMemory", "graphs_budget"]

log = logging.getLogger(__name__)

MAX_GRAPHS = 72  # two for each of 35 numbers of rows; vLLM and SGLang record 35 to 67
GRAPH_BYTES = 24 << 20  # of one graph of a whole model, until MEASURED were captured; outside the caching allocator
BUDGET_SHARE = 32  # graphs get at most this fraction, 1 / 32, of a card
LEAST_FREE_BYTES = 512 << 20  # below it nothing is captured
MEASURED = 3  # from so many graphs on their measured size replaces GRAPH_BYTES
MAX_FAILURES = 3  # failed captures, after which none is tried: each costs 0.1 s
RETRY_CALLS = 1000  # a shape that found too little memory is tried again after so many calls


def graphs_budget(total_bytes: int) -> int:
    """The memory budget of CUDA graphs on a GPU with `total_bytes`."""
    return min(MAX_GRAPHS * GRAPH_BYTES, total_bytes // BUDGET_SHARE)


Idle = Callable[[], AbstractContextManager[None]]


class GraphMemory(Protocol):
    def free_bytes(self) -> int: ...

    def driver_bytes(self) -> int:
        """Bytes taken outside the caching allocator."""
        ...


class _Graph(NamedTuple):
    replay: Run
    num_bytes: int


class CudaGraphCache:
    def __init__(
        self,
        capture: Capture,
        memory: GraphMemory | None = None,
        budget_bytes: int = MAX_GRAPHS * GRAPH_BYTES,
        all_reduce_min: Callable[[int], int] | None = None,
    ) -> None:
        """memory   None: only the number of graphs is bounded
        all_reduce_min   takes this rank's number, up to MAX_GRAPHS, returns the least of all ranks'; None: one rank
        """
        self._capture, self._memory, self._budget_bytes, self._all_reduce_min = (
            capture,
            memory,
            budget_bytes,
            all_reduce_min,
        )
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()  # the least recently used one first
        self._eager_until: dict[Hashable, float] = {}  # in calls
        self._calls = self._num_failures = 0

    @property
    def shapes(self) -> tuple[Hashable, ...]:
        """The captured shapes, the least recently used one first."""
        return tuple(self._graphs)

    def run(self, shape: Hashable, run: Run, idle: Idle = nullcontext) -> Tensor:
        """Replays the graph of the shape, or runs and captures `run`. The result is valid until the next call.

        A capture runs the step once more, within `idle`: a context in which it must change nothing.
        """
        self._calls += 1
        graph = self._graphs.get(shape)
        if graph is not None:
            self._graphs.move_to_end(shape)
            return graph.replay()
        if self._num_failures >= MAX_FAILURES or self._calls < self._eager_until.get(shape, 0):
            return run()
        most = self._least_of_all(self._most())
        if most < 1:
            log.warning("no graph for %s: less than %d bytes are free", shape, LEAST_FREE_BYTES)
            self._eager_until[shape] = self._calls + RETRY_CALLS
            return run()
        while len(self._graphs) >= most:
            self._graphs.popitem(last=False)  # CUDA frees one that still runs when it has
        return self._recorded(shape, run, idle)

    def close(self) -> None:
        """Frees the graphs. Comes before the process group that they call is destroyed: NCCL waits for them."""
        self._graphs.clear()

    def _recorded(self, shape: Hashable, run: Run, idle: Idle) -> Tensor:
        before = self._memory.driver_bytes() if self._memory is not None else 0
        replay, reason = None, "another rank could not record it"
        try:
            with idle():
                replay = self._capture(run)
        except CaptureError as error:
            reason = str(error)
        except torch.OutOfMemoryError as error:  # of the run before, on a stream that has no spare memory yet
            if self._all_reduce_min is not None:
                raise  # the other ranks are inside a collective
            reason = str(error)
        if not self._least_of_all(int(replay is not None)) or replay is None:
            self._num_failures += 1
            self._eager_until[shape] = math.inf
            log.warning("no graph for %s, it runs eagerly: %s", shape, reason)
            if self._num_failures == MAX_FAILURES:
                log.warning("%d captures have failed: no further shape is recorded", MAX_FAILURES)
            return run()
        out = replay()  # which is when the driver takes the memory
        taken = self._memory.driver_bytes() - before if self._memory is not None else 0
        self._graphs[shape] = _Graph(replay, max(0, taken))
        return out

    def _most(self) -> int:
        """How many graphs fit, the next one included; 0: the next one does not."""
        if self._memory is None:
            return MAX_GRAPHS
        if self._memory.free_bytes() < LEAST_FREE_BYTES:
            return 0
        graph_bytes = GRAPH_BYTES
        if len(self._graphs) >= MEASURED:
            measured = [graph.num_bytes for graph in self._graphs.values()]
            # without the largest: the first capture lets libraries allocate, and another process may share the GPU
            graph_bytes = (sum(measured) - max(measured)) // (len(measured) - 1)
        return min(MAX_GRAPHS, max(1, self._budget_bytes // max(1, graph_bytes)))

    def _least_of_all(self, number: int) -> int:
        return number if self._all_reduce_min is None else self._all_reduce_min(number)
