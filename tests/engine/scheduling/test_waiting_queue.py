"""The waiting queue: who is first, and what those who wait will cost."""

from engine.scheduling.block_allocator import BlockAllocator
from engine.scheduling.waiting_queue import WaitingQueue
from tests.engine.scheduling.sequences import BLOCK_SIZE, KEY, sequence


def make() -> WaitingQueue:
    return WaitingQueue(BlockAllocator(16, BLOCK_SIZE, KEY, None))


def test_priority_goes_before_virtual_start_and_that_before_arrival() -> None:
    queue = make()
    for seq_id, priority, start in ((0, 0, 20), (1, 0, 10), (2, -1, 99), (3, 0, 10)):
        queue.add(sequence(seq_id, [seq_id + 1, 2], priority=priority, start=start))
    assert [seq.seq_id for seq in queue.sequences] == [2, 1, 3, 0]
    queue.check()


def test_a_prefix_that_one_before_it_will_compute_is_counted_once() -> None:
    queue = make()
    first, second = sequence(0, list(range(10))), sequence(1, [*range(8), 50])
    queue.add(first)
    queue.add(second)
    assert queue.num_tokens == 19 and queue.num_missing_tokens == 11
    assert (first.num_missing, second.num_missing) == (10, 1)
    queue.remove(first)
    assert queue.num_tokens == 9 and queue.num_missing_tokens == 1
    queue.remove(second)
    assert (queue.num_tokens, queue.num_missing_tokens, queue.sequences) == (0, 0, [])
    queue.check()
