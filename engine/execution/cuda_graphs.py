"""CUDA graphs of decode steps: one replay instead of hundreds of kernel launches.

A graph is captured for a shape at the first step that needs it: a number of rows, one of three widths of the block
table and one of three numbers of groups that share a prefix. Smaller steps are padded: padding rows write nowhere,
padding sequences have no queries, padding groups no members. All graphs read the same static inputs, which are filled
before each replay. engine/execution/cuda_graph_cache.py bounds the number of graphs.
"""

import bisect
import itertools
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.device.cuda_capture import Capture, Run, cuda_capture
from engine.execution.cuda_graph_cache import CudaGraphCache
from engine.execution.cuda_graph_inputs import CudaGraphInputs, GraphShape
from engine.model.block_tables import BlockTables
from engine.model.cascade import PrefixGroup
from engine.model.forward_batch import ForwardBatch
from engine.scheduling.scheduler_output import ScheduledSequence, SchedulerOutput

__all__ = ["Capture", "CudaGraphs", "LargestStep", "Run", "UnpaddedGraphs", "cuda_capture"]

FIRST_ROWS = (1, 2, 4)
ROWS_STEP = 8  # between captured numbers of rows, above the small ones
MANY_ROWS = 256  # from here on four times that
# widths of the block table, in tokens; the third is the longest context. The width sets the number of attention
# programs (8, 32, then 64 splits of a row), of which those without keys end at once
WIDTHS = (2048, 8192)
LONG_CONTEXT = 512  # tokens
FEW_GROUPS = 4  # the first number of groups; the second is as many as rows can form


@dataclass(frozen=True)
class LargestStep:
    """What is replayed at most: so many rows, each of so many blocks, in so many cache groups, and with recurrent
    states or without.
    """

    num_rows: int
    num_blocks: int
    has_states: bool = False
    num_tables: int = 1


class CudaGraphs:
    """Replays steps in which each sequence decodes one token, with draft tokens behind it or not.

    Each token is a row, and rows of one sequence are treated as sequences that share their blocks: attention reads
    keys only after all keys of the step are written. A recurrent state is advanced by one row at a time, so that a step
    with draft tokens is none for such a model.
    """

    pads = True

    def __init__(
        self,
        hidden: Callable[[ForwardBatch], Tensor],
        capture: Capture | CudaGraphCache,
        largest: LargestStep,
        *,
        block_size: int,
        device: torch.device,
    ) -> None:
        """hidden       the forward pass up to the LM head, [R, M] of the sampled rows
        capture      a CudaGraphCache bounds the graphs' memory, too
        """
        self._hidden = hidden
        self._graphs = capture if isinstance(capture, CudaGraphCache) else CudaGraphCache(capture)
        self._has_states = largest.has_states  # which a step advances: it must not run twice
        self._max_rows, max_rows, max_blocks = largest.num_rows, largest.num_rows, largest.num_blocks
        widths = [-(-tokens // block_size) for tokens in WIDTHS] if self.pads else []
        self._widths = [*(blocks for blocks in widths if blocks < max_blocks), max_blocks]
        self._sizes = list(FIRST_ROWS) if self.pads else list(range(1, max_rows + 1))
        while self._sizes[-1] < max_rows:
            step = ROWS_STEP if self._sizes[-1] < MANY_ROWS else 4 * ROWS_STEP
            self._sizes.append((self._sizes[-1] // step + 1) * step)
        most = self._sizes[-1]
        self._num_tables = largest.num_tables
        shape = GraphShape(most, max_blocks, _most_groups(most), largest.num_tables)
        self._inputs = CudaGraphInputs(shape, device, largest.has_states)

    def fits(self, scheduled: SchedulerOutput) -> bool:
        if self._has_states and scheduled.has_drafts:
            return False
        return 0 < scheduled.num_tokens <= self._max_rows and all(
            piece.samples and len(piece.tokens) == 1 + piece.num_draft_tokens and not piece.scored
            for piece in scheduled.sequences
        )

    def hidden(
        self,
        scheduled: SchedulerOutput,
        block_tables: BlockTables,
        groups: Sequence[PrefixGroup] = (),
        put_tokens: Callable[[Tensor], None] = lambda tokens_T: None,
    ) -> Tensor:
        """[R, M], valid until the next call. `put_tokens` may change the input tokens in place."""
        rows = [row for piece in scheduled.sequences for row in _rows(piece)]
        first = [0, *itertools.accumulate(len(piece.tokens) for piece in scheduled.sequences)]
        groups = [PrefixGroup(group.num_tokens, tuple(first[row] for row in group.rows)) for group in groups]
        width = block_tables.width(block_tables.rows(scheduled.sequences))
        shape = self.shape_of(len(rows), width, len(groups))
        self._inputs.fill(shape, rows, groups, block_tables)
        batch = self._inputs.batch(shape)
        put_tokens(batch.tokens_T)
        idle = self._inputs.without_queries(shape) if self._has_states else nullcontext
        return self._graphs.run(shape, lambda: self._hidden(batch), idle)[: len(rows)]

    def shape_of(self, num_rows: int, num_blocks: int, num_groups: int) -> GraphShape:
        """The smallest captured shape that such a step fits into."""
        size = self._sizes[bisect.bisect_left(self._sizes, num_rows)]
        width = self._widths[min(bisect.bisect_left(self._widths, num_blocks), len(self._widths) - 1)]
        return GraphShape(size, width, _num_groups(num_groups, size), self._num_tables)

    @property
    def shapes(self) -> tuple[Hashable, ...]:
        """The captured shapes, the least recently used one first."""
        return self._graphs.shapes

    def close(self) -> None:
        """Frees the graphs, before the process group that they call is destroyed."""
        self._graphs.close()


class UnpaddedGraphs(CudaGraphs):
    """Each number of rows has a graph of its own, all the longest width: for a CPU, which computes padding as slowly as
    anything else, and captures at once.
    """

    pads = False

    def fits(self, scheduled: SchedulerOutput) -> bool:
        """Not draft tokens behind a long context, which would be read for each of them."""
        return super().fits(scheduled) and all(
            not piece.num_draft_tokens or piece.start < LONG_CONTEXT for piece in scheduled.sequences
        )


def _num_groups(count: int, num_rows: int) -> int:
    """The number of groups of the smallest shape with room for `count`."""
    if not count:
        return 0
    return FEW_GROUPS if count <= FEW_GROUPS else _most_groups(num_rows)


def _most_groups(num_rows: int) -> int:
    """The most groups that rows can form, each of two rows at least."""
    return max(FEW_GROUPS, num_rows // 2)


def _rows(piece: ScheduledSequence) -> list[ScheduledSequence]:
    """One single-token sequence for each token."""
    if len(piece.tokens) == 1:
        return [piece]
    return [
        ScheduledSequence(piece.seq_id, piece.start + at, (token,), (), True) for at, token in enumerate(piece.tokens)
    ]
