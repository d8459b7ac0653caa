"""The waiting queue: new and preempted sequences, and the tokens that they will have to compute."""

import bisect

from engine.scheduling.block_allocator import BlockAllocator
from engine.scheduling.sequence import Sequence

__all__ = ["WaitingQueue"]


class WaitingQueue:
    """Sequences in scheduling order: (priority, virtual start, arrival)."""

    def __init__(self, blocks: BlockAllocator) -> None:
        self.sequences: list[Sequence] = []
        self.num_tokens = 0  # uncomputed tokens of all sequences
        self.num_missing_tokens = 0  # of these, the ones that no cached prefix saves, as far as is known
        self._blocks = blocks
        self._promised: dict[bytes, int] = {}  # hash of a prompt block -> the waiting sequence that will fill it

    def add(self, seq: Sequence) -> None:
        """Adds a sequence, and counts its tokens without those that are cached or that one before it will compute."""
        bisect.insort(self.sequences, seq, key=lambda one: one.order)
        missing = [block_hash for block_hash in self._blocks.missing_hashes(seq) if block_hash not in self._promised]
        self._promised.update(dict.fromkeys(missing, seq.seq_id))
        num_shared = len(self._blocks.usable_hashes(seq)) - len(missing)
        seq.num_missing = len(seq.tokens) - num_shared * self._blocks.block_size
        self.num_tokens += seq.num_uncomputed
        self.num_missing_tokens += seq.num_missing

    def remove(self, seq: Sequence) -> None:
        self.sequences.remove(seq)
        self.num_tokens -= seq.num_uncomputed
        self.num_missing_tokens -= seq.num_missing
        for block_hash in seq.block_hashes:
            if self._promised.get(block_hash) == seq.seq_id:
                del self._promised[block_hash]

    def check(self) -> None:
        """Asserts every redundant field against its recomputation."""
        assert self.sequences == sorted(self.sequences, key=lambda seq: seq.order)
        assert self.num_tokens == sum(seq.num_uncomputed for seq in self.sequences)
        assert self.num_missing_tokens == sum(seq.num_missing for seq in self.sequences)
        assert all(0 < seq.num_missing <= seq.num_uncomputed for seq in self.sequences)
        assert set(self._promised.values()) <= {seq.seq_id for seq in self.sequences}
        assert not any(seq.blocks for seq in self.sequences)
