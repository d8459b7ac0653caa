"""Block tables: the blocks of every running sequence, kept from step to step. A step brings the new ones alone."""

from collections.abc import Sequence
from typing import Self

import numpy as np

from engine.cache.cache_layout import CacheGroup
from engine.scheduling.scheduler_output import ScheduledSequence, SchedulerOutput

__all__ = ["BlockTables"]

FIRST_ROWS, FIRST_WIDTH = 16, 64


class BlockTables:
    """[K, rows, W] int32 in host memory: a table for each of K cache groups, a row for each sequence.

    Entries are what kernels take: a block's row in the caches of the group's layers. Those of blocks that a group has
    freed, and those past a sequence's last block, are stale or 0, and never read.
    """

    def __init__(self, block_size: int, groups: Sequence[CacheGroup] = (CacheGroup(),)) -> None:
        self.block_size = block_size
        self._pages = [group.pages for group in groups]
        self._num_whole = sum(group.keeps_all for group in groups)  # these come first
        self._rows: dict[int, int] = {}  # of sequences
        self._free = list(range(FIRST_ROWS))
        self._tables = np.zeros((len(groups), FIRST_ROWS, FIRST_WIDTH), np.int32)
        self._num_blocks = np.zeros(FIRST_ROWS, np.int64)  # of each row

    @classmethod
    def of(cls, scheduled: SchedulerOutput, block_size: int, groups: Sequence[CacheGroup] = (CacheGroup(),)) -> Self:
        """The tables of a step of which nothing was known before."""
        tables = cls(block_size, groups)
        tables.update(scheduled)
        return tables

    @property
    def num_groups(self) -> int:
        return len(self._pages)

    def update(self, scheduled: SchedulerOutput) -> None:
        """Before a step: drops the sequences that finished, and adds its new blocks."""
        for seq_id in scheduled.finished_ids:
            row = self._rows.pop(seq_id, None)
            if row is not None:
                self._free.append(row)
        for piece in scheduled.sequences:
            count = len(piece.blocks[0]) if piece.blocks else 0
            if not count and piece.seq_id in self._rows:
                continue
            row, stop = self._row_of(piece.seq_id), piece.first_block + count
            if stop > self._tables.shape[2]:
                more = max(stop, 2 * self._tables.shape[2]) - self._tables.shape[2]
                self._tables = np.pad(self._tables, ((0, 0), (0, 0), (0, more)))
            self._num_blocks[row] = stop
            for table, pages, blocks in zip(self._tables, self._pages, piece.blocks, strict=bool(count)):
                table[row, piece.first_block : stop] = blocks if pages == 1 else np.array(blocks, np.int32) * pages

    def rows(self, sequences: Sequence[ScheduledSequence]) -> np.ndarray:
        """[S] row of each sequence."""
        return np.array([self._rows[piece.seq_id] for piece in sequences], np.int64)

    def width(self, rows_S: np.ndarray) -> int:
        """The most blocks of these rows."""
        return int(self._num_blocks[rows_S].max())

    def table(self, rows_S: np.ndarray, width: int) -> np.ndarray:
        """[K, S, width] of these rows: a copy."""
        if width > self._tables.shape[2]:
            self._tables = np.pad(self._tables, ((0, 0), (0, 0), (0, width - self._tables.shape[2])))
        return np.ascontiguousarray(self._tables[:, rows_S, :width])

    def slots(self, rows_T: np.ndarray, positions_T: np.ndarray) -> np.ndarray:
        """[K, T] int64: the slot of each position, of the sequence with that row."""
        blocks, offsets = np.divmod(positions_T, self.block_size)
        return self._tables[:, rows_T, blocks].astype(np.int64) * self.block_size + offsets

    def prefix(self, piece: ScheduledSequence, start: int, stop: int) -> bytes:
        """What is equal for sequences that share blocks [start, stop) in every group that keeps all tokens."""
        return self._tables[: self._num_whole, self._rows[piece.seq_id], start:stop].tobytes()

    @property
    def can_share(self) -> bool:
        """Whether some layers see all tokens, which sequences with one prefix can read together."""
        return self._num_whole > 0

    def _row_of(self, seq_id: int) -> int:
        row = self._rows.get(seq_id)
        if row is None:
            if not self._free:
                num_rows = self._tables.shape[1]
                self._free = list(range(num_rows, 2 * num_rows))
                self._tables = np.concatenate((self._tables, np.zeros_like(self._tables)), 1)
                self._num_blocks = np.concatenate((self._num_blocks, np.zeros_like(self._num_blocks)))
            row = self._rows[seq_id] = self._free.pop()
        return row
