"""The block pool: reference counts of KV blocks, and LRU eviction of unreferenced ones.

Ids only: contents are the KVCache's, block hashes the PrefixCache's.
"""

from collections import OrderedDict

__all__ = ["BlockPool"]


class BlockPool:
    """A fixed number of blocks, each referenced by any number of sequences, or free.

    A free block keeps its contents until it is allocated again. Blocks are allocated, and so evicted from the prefix
    cache, in the order in which they became free (the least recently used first); blocks that are not cached come
    before all others.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._ref_counts = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))  # the next to be evicted first

    @property
    def num_free(self) -> int:
        return len(self._free)

    def is_free(self, block: int) -> bool:
        return block in self._free

    def allocate(self) -> int:
        """The least recently used free block, with one reference. There must be one."""
        block, _ = self._free.popitem(last=False)
        self._ref_counts[block] = 1
        return block

    def touch(self, block: int) -> None:
        """Adds a reference to a block, free or not."""
        if self._ref_counts[block] == 0:
            del self._free[block]
        self._ref_counts[block] += 1

    def release(self, block: int, is_cached: bool) -> None:
        """Drops a reference. A block without any becomes free, and is the last to be evicted if it is cached."""
        assert self._ref_counts[block] > 0, f"block {block} is free"
        self._ref_counts[block] -= 1
        if self._ref_counts[block] == 0:
            self._free[block] = None
            self._free.move_to_end(block, last=is_cached)

    def check(self, held: list[int]) -> None:
        """Asserts that the reference counts match `held`, every block of every sequence."""
        ref_counts = [0] * self.num_blocks
        for block in held:
            ref_counts[block] += 1
        assert ref_counts == self._ref_counts, "reference counts differ from the sequences' blocks"
        assert {block for block, count in enumerate(ref_counts) if count == 0} == set(self._free), "free set is wrong"
