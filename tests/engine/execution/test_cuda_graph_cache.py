"""Which graphs there are, of a card that is not there: what is recorded, evicted, tried again and left eager."""

import threading
from collections.abc import Callable

import pytest
import torch

from engine.device.cuda_capture import CaptureError, Run
from engine.execution.cuda_graph_cache import GRAPH_BYTES, MAX_FAILURES, RETRY_CALLS, CudaGraphCache, graphs_budget
from engine.parallel.tensor_parallel import TensorParallel

MB = 1 << 20
CPU = torch.device("cpu")


class Card:
    """Recording takes memory outside the allocator, and fails where it is told to."""

    def __init__(self, free: int = 4096 * MB, graph_bytes: int = 30 * MB) -> None:
        self.free, self.graph_bytes = free, graph_bytes
        self.taken = self.num_recorded = 0
        self.fails: set[int] = set()
        self.error: Exception = CaptureError("operation not permitted when stream is capturing")

    def free_bytes(self) -> int:
        return self.free

    def driver_bytes(self) -> int:
        return self.taken

    def capture(self, run: Run) -> Run:
        shape = int(run())
        if shape in self.fails:
            raise self.error
        self.num_recorded += 1

        def replay() -> torch.Tensor:
            if not replayed:
                self.taken += self.graph_bytes  # the driver takes it with the first launch
            replayed.append(True)
            return torch.tensor(shape)

        replayed: list[bool] = []
        return replay


def ask(cache: CudaGraphCache, shape: int) -> int:
    return int(cache.run(shape, lambda: torch.tensor(shape)))


def test_the_least_recently_used_graph_is_evicted() -> None:
    card = Card()
    cache = CudaGraphCache(card.capture, card, budget_bytes=3 * GRAPH_BYTES)
    for shape in (1, 2, 3, 1, 4):
        assert ask(cache, shape) == shape
    assert cache.shapes == (1, 4) and card.num_recorded == 4, "3 x 24 MiB are 2 x 30 MiB"
    assert ask(cache, 1) == 1 and card.num_recorded == 4
    assert ask(cache, 2) == 2 and card.num_recorded == 5


def test_the_budget_is_kept_by_what_graphs_were_measured_to_take() -> None:
    for graph_bytes, most in ((6 * MB, 20), (40 * MB, 3), (0, 30)):
        card = Card(graph_bytes=graph_bytes)
        cache = CudaGraphCache(card.capture, card, budget_bytes=120 * MB)
        for shape in range(30):
            assert ask(cache, shape) == shape
        assert cache.shapes == tuple(range(30 - most, 30))


def test_what_libraries_take_at_the_first_graph_is_not_held_against_the_others() -> None:
    card = Card(graph_bytes=900 * MB)
    cache = CudaGraphCache(card.capture, card, budget_bytes=240 * MB)
    for shape in range(12):
        ask(cache, shape)
        card.graph_bytes = 20 * MB
    assert cache.shapes == tuple(range(12)), "240 MiB are 12 x 20 MiB"


def test_a_shape_that_cannot_be_recorded_runs_eagerly_from_then_on(caplog: pytest.LogCaptureFixture) -> None:
    card = Card()
    card.fails = {2}
    cache = CudaGraphCache(card.capture, card)
    assert [ask(cache, shape) for shape in (1, 2, 2, 3, 2)] == [1, 2, 2, 3, 2]
    assert cache.shapes == (1, 3)
    assert caplog.text.count("no graph for 2") == 1, "it was tried again"


def test_captures_that_fail_one_after_the_other_are_given_up() -> None:
    card = Card()
    card.fails = set(range(10, 30))
    cache = CudaGraphCache(card.capture, card)
    assert [ask(cache, shape) for shape in (1, *range(10, 30), 2, 1)] == [1, *range(10, 30), 2, 1]
    assert cache.shapes == (1,) and card.num_recorded == 1
    assert MAX_FAILURES < 20


def test_too_little_memory_leaves_a_shape_eager_for_a_while() -> None:
    card = Card(free=500 * MB)
    cache = CudaGraphCache(card.capture, card)
    assert ask(cache, 1) == 1 and not cache.shapes
    card.free = 4096 * MB
    for _ in range(RETRY_CALLS - 1):
        ask(cache, 1)
    assert not cache.shapes
    ask(cache, 1)
    assert cache.shapes == (1,)


def test_memory_that_ends_before_a_capture_leaves_a_shape_eager() -> None:
    card = Card()
    card.fails, card.error = {1}, torch.OutOfMemoryError("tried to allocate 3 GiB")
    cache = CudaGraphCache(card.capture, card)
    assert ask(cache, 1) == 1 and not cache.shapes


def test_what_goes_wrong_otherwise_ends_the_step() -> None:
    card = Card()
    card.fails, card.error = {1}, RuntimeError("an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        ask(CudaGraphCache(card.capture, card), 1)


def test_a_closed_cache_holds_no_graph() -> None:
    card = Card()
    cache = CudaGraphCache(card.capture, card)
    ask(cache, 1)
    cache.close()
    assert not cache.shapes


@pytest.mark.parametrize(("total", "budget"), [(80 << 30, 72 * GRAPH_BYTES), (8 << 30, 256 * MB)])
def test_graphs_get_a_small_part_of_a_card(total: int, budget: int) -> None:
    assert graphs_budget(total) == budget


class Sums:
    """Adds up over threads. A rank that calls it while another one does not is seen: the barrier breaks."""

    name, in_order = "threads", True

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=10)
        self.parts: list[torch.Tensor] = []

    def all_reduce(self, x: torch.Tensor) -> None:
        self.parts.append(x.clone())
        self.barrier.wait()
        total = torch.stack(self.parts).sum(0)
        self.barrier.wait()
        self.parts.clear()
        self.barrier.wait()
        x.copy_(total)

    def gather(self, x: torch.Tensor) -> torch.Tensor | None:
        raise NotImplementedError

    def abort(self) -> None: ...

    def unlink(self) -> None: ...

    def close(self) -> None: ...


def test_ranks_replay_the_same_shapes_whatever_each_of_them_could() -> None:
    """One has less memory for graphs, one fails to record a shape, one is short of memory for a while."""
    sums, cards = Sums(3), [Card(), Card(graph_bytes=50 * MB), Card()]
    cards[0].fails = {5}
    caches: list[CudaGraphCache] = []
    for rank, card in enumerate(cards):
        tp = TensorParallel(rank, 3, sums)

        def all_reduce_min(number: int, tp: TensorParallel = tp) -> int:
            return tp.all_reduce_min(number, 72, CPU)

        caches.append(CudaGraphCache(card.capture, card, 200 * MB, all_reduce_min))
    found: list[list[tuple[object, ...]]] = [[], [], []]

    def rank_does(rank: int) -> None:
        for step, shape in enumerate((1, 2, 3, 4, 1, 5, 6, 5, 7, 1, 8, 2)):
            cards[rank].free = (100 if step == 8 and rank == 2 else 4096) * MB
            assert ask(caches[rank], shape) == shape
            found[rank].append(caches[rank].shapes)

    _together([lambda rank=rank: rank_does(rank) for rank in range(3)])  # type: ignore[misc]
    assert found[0] == found[1] == found[2]
    assert max(map(len, found[0])) == 4, "200 MiB are 4 x 50 MiB"
    assert all(5 not in shapes and 7 not in shapes for shapes in found[0])
    assert found[0][-1] == (6, 1, 8, 2)


def _together(works: list[Callable[[], None]]) -> None:
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
