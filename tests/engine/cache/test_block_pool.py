"""The block pool: exact ids, and the order of eviction."""

import pytest

from engine.cache.block_pool import BlockPool


def test_blocks_are_allocated_in_the_order_of_their_ids_at_first() -> None:
    pool = BlockPool(3)
    assert [pool.allocate() for _ in range(3)] == [0, 1, 2]
    assert pool.num_free == 0 and not pool.is_free(1)
    pool.check([0, 1, 2])


def test_the_least_recently_used_cached_block_is_evicted_first() -> None:
    pool = BlockPool(4)
    for _ in range(4):
        pool.allocate()
    for block in (2, 0, 3, 1):
        pool.release(block, is_cached=True)
    assert [pool.allocate() for _ in range(4)] == [2, 0, 3, 1]


def test_blocks_that_are_not_cached_come_before_all_that_are() -> None:
    pool = BlockPool(4)
    for _ in range(4):
        pool.allocate()
    pool.release(3, is_cached=True)
    pool.release(1, is_cached=False)
    pool.release(0, is_cached=True)
    pool.release(2, is_cached=False)
    assert [pool.allocate() for _ in range(4)] == [2, 1, 3, 0]


def test_a_touched_block_is_free_after_its_last_reference_and_moves_to_the_end_of_the_line() -> None:
    pool = BlockPool(3)
    for _ in range(3):
        pool.allocate()
    for block in (0, 1, 2):
        pool.release(block, is_cached=True)
    pool.touch(0)  # a prefix hit
    pool.touch(0)
    pool.release(0, is_cached=True)
    assert pool.num_free == 2 and not pool.is_free(0)
    pool.release(0, is_cached=True)
    assert [pool.allocate() for _ in range(3)] == [1, 2, 0]


def test_a_block_that_nobody_refers_to_cannot_be_released() -> None:
    pool = BlockPool(1)
    with pytest.raises(AssertionError, match="block 0 is free"):
        pool.release(0, is_cached=False)
    with pytest.raises(AssertionError):
        pool.check([0])
