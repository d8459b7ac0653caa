"""Recurrent states of sequences: a slot for each running one, and when snapshots of them are kept.

A snapshot is due every so many tokens, and at the last block border of a prompt, from where another sequence with the
same prompt goes on. Steps are cut so that they end there. A KV connector saves snapshots once the step has begun that
makes them, and loads what this pool no longer has. Before a step with draft tokens the state is copied: if some are
wrong the copy takes its place, and those that were right are computed again with the next step's tokens.
"""

from collections.abc import Sequence as Many

from engine.cache.kv_connector import KVConnector
from engine.cache.state_pool import StatePool
from engine.scheduling.sequence import Sequence

__all__ = ["SequenceStates"]


class SequenceStates:
    def __init__(self, num_slots: int, block_size: int, interval: int, connector: KVConnector | None = None) -> None:
        """`interval`: tokens from one snapshot to the next, at least; rounded up to whole blocks."""
        self.pool = StatePool(num_slots)
        self._block_size = block_size
        self._interval = -(-max(1, interval) // block_size) * block_size
        self._connector = connector
        self._copies: list[tuple[int, int]] = []  # (from, to), before the next step
        self._kept: list[tuple[bytes, int]] = []  # snapshots that these copies make
        self._unsaved: list[tuple[bytes, int]] = []  # those of the steps before

    def take_copies(self) -> tuple[tuple[int, int], ...]:
        copies, self._copies = tuple(self._copies), []
        self._unsaved += self._kept
        self._kept = []
        return copies

    def save_snapshots(self) -> None:
        """Saves snapshots that the steps up to now make, unless their slots are taken again."""
        unsaved, self._unsaved = self._unsaved, []
        if self._connector is not None:
            for block_hash, slot in unsaved:
                if self.pool.snapshot(block_hash) == slot:
                    self._connector.save(block_hash, slot)

    def num_shared(self, block_hashes: Many[bytes]) -> int:
        """How many of these blocks a sequence can share, which are all cached: up to the last snapshot."""
        return self.pool.longest(block_hashes)[0]

    def num_restorable(self, block_hashes: Many[bytes]) -> int:
        """The same with snapshots that the connector has."""
        shared = self.num_shared(block_hashes)
        if self._connector is not None:
            for count in range(len(block_hashes), shared, -1):
                if self._connector.holds(block_hashes[count - 1]):
                    return count
        return shared

    def restore(self, block_hashes: Many[bytes], num_shared: int) -> bool:
        """Loads the snapshot after these blocks, unless the pool has it. That after the first `num_shared` stays."""
        if self.pool.holds(block_hashes[-1]):
            return True
        if self._connector is None or self.pool.num_free < 2:
            return False
        if num_shared and (shared := self.pool.snapshot(block_hashes[num_shared - 1])) is not None:
            self.pool.touch(shared)
        slot = self.pool.allocate()
        # a copy before the next step would come after the load
        is_free = not any(slot in copy for copy in self._copies)
        is_loaded = is_free and self._connector.load(block_hashes[-1], slot)
        self.pool.release(slot, block_hashes[-1] if is_loaded else None)
        return is_loaded

    def start(self, seq: Sequence) -> None:
        """Gives the sequence a state, that after its computed tokens."""
        num_blocks = seq.num_computed // self._block_size
        count, snapshot = self.pool.longest(seq.block_hashes[:num_blocks])
        assert count == num_blocks
        if snapshot is not None:
            self.pool.touch(snapshot)
        seq.state = self.pool.allocate()
        if snapshot is not None:
            self._copies.append((snapshot, seq.state))

    def fork(self, parent: Sequence, child: Sequence) -> None:
        child.state = self.pool.allocate()
        self._copies.append((parent.state, child.state))

    def num_until_due(self, seq: Sequence) -> int:
        """Tokens from the computed ones to where the next snapshot is due."""
        border, last = (seq.num_computed // self._interval + 1) * self._interval, self._last_border(seq)
        return (last if seq.num_computed < last < border else border) - seq.num_computed

    def is_due(self, seq: Sequence) -> bool:
        count = seq.num_computed
        return count > 0 and (count % self._interval == 0 or count == self._last_border(seq))

    def keep(self, seq: Sequence) -> None:
        """Keeps a snapshot of the state after the computed tokens, whose blocks are hashed."""
        block_hash = seq.block_hashes[seq.num_computed // self._block_size - 1]
        if self.pool.holds(block_hash) or not self.pool.num_free:
            return
        snapshot = self.pool.allocate()
        self._copies.append((seq.state, snapshot))
        self._kept.append((block_hash, snapshot))
        self.pool.release(snapshot, block_hash)

    def copy(self, seq: Sequence) -> None:
        """Copies the state before the next step. There must be a free slot."""
        seq.state_before_drafts = self.pool.allocate()
        self._copies.append((seq.state, seq.state_before_drafts))

    def settle(self, seq: Sequence, are_drafts_right: bool) -> None:
        """Keeps the state after the step, or else the copy."""
        if not are_drafts_right:
            seq.state, seq.state_before_drafts = seq.state_before_drafts, seq.state
        self.pool.release(seq.state_before_drafts)
        seq.state_before_drafts = -1

    def free(self, seq: Sequence) -> None:
        """Frees the sequence's slots. No snapshot: a step may be under way that goes on with it."""
        for slot in (seq.state, seq.state_before_drafts):
            if slot >= 0:
                self.pool.release(slot)
        seq.state = seq.state_before_drafts = -1

    def check(self, running: Many[Sequence]) -> None:
        """Asserts that the running sequences have exactly the slots that are taken."""
        copies = [seq.state_before_drafts for seq in running if seq.state_before_drafts >= 0]
        self.pool.check([*(seq.state for seq in running), *copies])

    def _last_border(self, seq: Sequence) -> int:
        """The last border of the prompt before its last token, which is always computed, for its logits."""
        return (seq.prompt_len - 1) // self._block_size * self._block_size
