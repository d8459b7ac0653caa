"""The state pool: slots for the states of recurrent layers, and snapshots of states at block borders.

A running sequence has one slot, which each step overwrites. A snapshot is a copy of it after a whole number of blocks,
found by the hash of the last of these: a prefix can be shared up to where a snapshot is. Unreferenced snapshots are
evicted as blocks are, the least recently used first.
"""

from collections.abc import Sequence

from engine.cache.block_pool import BlockPool
from engine.cache.prefix_cache import PrefixCache

__all__ = ["StatePool"]


class StatePool:
    """Ids only: contents are the KVCache's. There must be more slots than running sequences."""

    def __init__(self, num_slots: int) -> None:
        self._pool = BlockPool(num_slots)
        self._snapshots = PrefixCache()

    @property
    def num_free(self) -> int:
        """Slots that no sequence has, snapshots included."""
        return self._pool.num_free

    @property
    def num_slots(self) -> int:
        return self._pool.num_blocks

    @property
    def num_snapshots(self) -> int:
        return len(self._snapshots)

    def allocate(self) -> int:
        """A slot for a running sequence. There must be a free one; the snapshot in it is evicted."""
        slot = self._pool.allocate()
        self._snapshots.evict(slot)
        return slot

    def release(self, slot: int, block_hash: bytes | None = None) -> None:
        """Frees a slot; it stays as the snapshot of that hash where one is given and new."""
        is_kept = block_hash is not None and self._snapshots.insert(block_hash, slot)
        self._pool.release(slot, is_cached=is_kept)

    def longest(self, block_hashes: Sequence[bytes]) -> tuple[int, int | None]:
        """The most blocks of a prefix after which there is a snapshot, and its slot; 0 and None if there is none."""
        for count in range(len(block_hashes), 0, -1):
            if (slot := self.snapshot(block_hashes[count - 1])) is not None:
                return count, slot
        return 0, None

    def snapshot(self, block_hash: bytes) -> int | None:
        """The slot of the snapshot after that block."""
        slots = self._snapshots.match([block_hash])
        return slots[0] if slots else None

    def holds(self, block_hash: bytes) -> bool:
        return self.snapshot(block_hash) is not None

    def touch(self, slot: int) -> None:
        """Marks a snapshot as used last."""
        self._pool.touch(slot)
        self._pool.release(slot, is_cached=True)

    def check(self, held: list[int]) -> None:
        """Asserts that the running sequences have exactly the slots that are taken."""
        self._pool.check(held)
        self._snapshots.check()
        assert not any(self._snapshots.holds(slot) for slot in held)
