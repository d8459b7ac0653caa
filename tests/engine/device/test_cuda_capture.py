"""What becomes of the process when a capture fails, by a card that is not there and behaves as torch 2.11's or 2.12's.

The fake keeps the state that the real allocator keeps: pools that are recorded to, and how many graphs hold each.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from engine.device.cuda_capture import CaptureError, CudaCapture

CARD = torch.device("cuda", 0)


class Allocator:
    def __init__(self) -> None:
        self.underway: set[int] = set()
        self.holders: dict[int, int] = {}

    def begin(self, pool: int) -> None:
        if pool in self.underway:
            raise RuntimeError("beginAllocateToPool: already recording to mempool_id")
        if self.holders.get(pool) == 0:
            raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED")  # a pool that all have left
        self.underway.add(pool)
        self.holders[pool] = self.holders.get(pool, 0) + 1

    def _cuda_endAllocateToPool(self, device: int, pool: int) -> None:
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)

    def _cuda_releasePool(self, device: int, pool: int) -> None:
        assert self.holders[pool] > 0
        self.holders[pool] -= 1


class Graph:
    def __init__(self, allocator: Allocator) -> None:
        self.allocator, self.pool, self.replays = allocator, None, 0

    def replay(self) -> None:
        self.replays += 1

    def __del__(self) -> None:
        if self.pool is not None:
            self.allocator._cuda_releasePool(0, self.pool)


class Stream:
    def __init__(self, device: object = None) -> None:
        self.waited_for: list[object] = []

    def wait_stream(self, other: object) -> None:
        self.waited_for.append(other)


class Cuda:
    """As much of torch.cuda as is used. `ends_badly`: CUDA says at the end that a capture was invalidated."""

    Stream = Stream

    def __init__(self, cleans_up: bool) -> None:
        self.cleans_up, self.ends_badly, self.is_broken = cleans_up, False, False
        self.allocator = Allocator()
        self.current = self.first = Stream()
        self.num_pools = self.num_emptied = 0

    def graph_pool_handle(self) -> int:
        self.num_pools += 1
        return self.num_pools

    def current_stream(self, device: object) -> Stream:
        return self.current

    def set_stream(self, stream: Stream) -> None:
        self.current = stream

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def synchronize(self, device: object) -> None:
        if self.is_broken:
            raise RuntimeError("an illegal memory access was encountered")

    def empty_cache(self) -> None:
        assert not self.allocator.underway, "captures_underway.empty() INTERNAL ASSERT FAILED"
        self.num_emptied += 1

    def CUDAGraph(self) -> Graph:
        return Graph(self.allocator)

    def graph(self, graph: Graph, pool: int, stream: Stream, capture_error_mode: str) -> "Capturing":
        return Capturing(self, graph, pool, stream)


class Capturing:
    """As torch.cuda.graph: where its end raises, the stream stays."""

    def __init__(self, cuda: Cuda, graph: Graph, pool: int, stream: Stream) -> None:
        self.cuda, self.graph, self.pool, self.of = cuda, graph, pool, stream

    def __enter__(self) -> None:
        self.cuda.empty_cache()
        self.before, self.cuda.current = self.cuda.current, self.of
        self.cuda.allocator.begin(self.pool)

    def __exit__(self, *error: object) -> None:
        if self.cuda.ends_badly:
            if self.cuda.cleans_up:
                self.cuda.allocator._cuda_endAllocateToPool(0, self.pool)
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self.cuda.allocator._cuda_endAllocateToPool(0, self.pool)
        self.graph.pool = self.pool
        self.cuda.current = self.before


def answer() -> torch.Tensor:
    return torch.tensor(3)


@pytest.fixture(params=[False, True], ids=["torch 2.11", "torch 2.12"])
def cuda(request: pytest.FixtureRequest) -> Cuda:
    return Cuda(cleans_up=request.param)


def capture_of(cuda: Cuda) -> CudaCapture:
    return CudaCapture(CARD, cuda, cuda.allocator)


def is_as_before(cuda: Cuda) -> bool:
    cuda.empty_cache()
    return cuda.current is cuda.first and not cuda.allocator.underway


def test_a_capture_gives_a_graph(cuda: Cuda) -> None:
    replay: Any = capture_of(cuda)(answer)
    assert replay() == 3 and replay._graph.replays == 1
    assert is_as_before(cuda)


@pytest.mark.parametrize("ends_badly", [False, True])
def test_a_failed_capture_leaves_everything_else_as_it_was(cuda: Cuda, ends_badly: bool) -> None:
    capture = capture_of(cuda)
    first = capture(answer)
    calls = []

    def work() -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:  # the first call is not recorded
            raise TypeError("a kernel that cannot be recorded")
        return torch.tensor(4)

    cuda.ends_badly = ends_badly
    with pytest.raises(CaptureError, match="RuntimeError: CUDA error" if ends_badly else "TypeError: a kernel"):
        capture(work)
    assert is_as_before(cuda)
    cuda.ends_badly = False
    second = capture(answer)
    assert first() == 3 and second() == 3
    assert is_as_before(cuda)


def test_a_capture_that_only_its_end_refuses_is_undone_too(cuda: Cuda) -> None:
    capture = capture_of(cuda)
    cuda.ends_badly = True
    for _ in range(3):
        with pytest.raises(CaptureError):
            capture(answer)
        assert is_as_before(cuda)


def test_what_cannot_be_undone_ends_the_process(cuda: Cuda) -> None:
    capture = capture_of(cuda)
    cuda.ends_badly = True
    with pytest.raises(RuntimeError, match="has to be started anew.*illegal memory") as found:
        capture(lambda: _break(cuda))
    assert not isinstance(found.value, CaptureError)


def _break(cuda: Cuda) -> torch.Tensor:
    if cuda.allocator.underway:
        cuda.is_broken = True
    return torch.tensor(1)


def test_what_the_work_raises_before_it_is_recorded_is_raised_as_it_is(cuda: Cuda) -> None:
    def work() -> torch.Tensor:
        raise torch.OutOfMemoryError("tried to allocate 3 GiB")

    with pytest.raises(torch.OutOfMemoryError):
        capture_of(cuda)(work)


def test_a_pool_that_all_graphs_have_left_is_not_taken_again(cuda: Cuda) -> None:
    capture = capture_of(cuda)
    for _ in range(3):
        assert capture(answer)() == 3
    kept = [capture(answer) for _ in range(3)]
    assert [replay() for replay in kept] == [3] * 3
    assert len({replay._graph.pool for replay in kept}) == 1, "graphs share their memory"  # type: ignore[attr-defined]
