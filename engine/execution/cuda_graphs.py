"""CUDA graphs of decode steps: what hundreds of launches do, one replay does.

A graph is recorded for a shape, the first time that a step needs it: a number of rows, one of three widths of the block
table and one of three numbers of groups that share a prefix. Steps in between are padded: rows of padding write
nowhere, sequences of padding have no queries, groups of padding no members. All graphs read the same inputs, which are
filled before each replay. How many graphs there are, and what becomes of the others:
engine/execution/cuda_graph_cache.py.
"""

import bisect
import itertools
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from engine.device.cuda_capture import Capture, Run, cuda_capture
from engine.execution.cuda_graph_cache import CudaGraphCache
from engine.execution.cuda_graph_inputs import CudaGraphInputs, GraphShape
from engine.model.cascade import PrefixGroup
from engine.model.forward_batch import ForwardBatch
from engine.scheduling.scheduler_output import ScheduledSequence, SchedulerOutput

__all__ = ["Capture", "CudaGraphs", "Run", "cuda_capture"]

FIRST_ROWS = (1, 2, 4)
ROWS_STEP = 8  # between sizes above
MANY_ROWS = 256  # from there on four times that
# widths of the block table, in tokens; the third is the longest context. Programs of attention that find no keys there
# end at once, but there are as many as the width asks for: 8 splits of a row at the first width, 32, then 64
WIDTHS = (2048, 8192)
FEW_GROUPS = 4  # the first number of groups; the second is as many as rows can form


class CudaGraphs:
    """Replays steps in which each sequence computes one token, or some with guesses behind it, and samples from each.

    A token is a row. Rows of one sequence stand beside each other as if they were several that share their blocks:
    attention looks at the keys only when all of a step's are written.
    """

    def __init__(
        self,
        hidden: Callable[[ForwardBatch], Tensor],
        capture: Capture | CudaGraphCache,
        *,
        max_rows: int,
        max_blocks: int,
        block_size: int,
        device: torch.device,
    ) -> None:
        """hidden       gives the rows that are sampled from, [R, M]
        capture      a CudaGraphCache bounds the memory of graphs, too
        max_blocks   what one sequence has at most
        """
        self._hidden = hidden
        self._graphs = capture if isinstance(capture, CudaGraphCache) else CudaGraphCache(capture)
        self._block_size = block_size
        self._max_rows = max_rows
        self._widths = [*(blocks for tokens in WIDTHS if (blocks := -(-tokens // block_size)) < max_blocks), max_blocks]
        self._sizes = list(FIRST_ROWS)
        while self._sizes[-1] < max_rows:
            step = ROWS_STEP if self._sizes[-1] < MANY_ROWS else 4 * ROWS_STEP
            self._sizes.append((self._sizes[-1] // step + 1) * step)
        most = self._sizes[-1]
        self._inputs = CudaGraphInputs(GraphShape(most, max_blocks, _most_groups(most)), device)

    def fits(self, scheduled: SchedulerOutput) -> bool:
        return 0 < sum(len(piece.tokens) for piece in scheduled.sequences) <= self._max_rows and all(
            piece.samples and len(piece.tokens) == 1 + piece.num_draft_tokens and not piece.scored
            for piece in scheduled.sequences
        )

    def hidden(
        self,
        scheduled: SchedulerOutput,
        groups: Sequence[PrefixGroup] = (),
        put_tokens: Callable[[Tensor], None] = lambda tokens_T: None,
    ) -> Tensor:
        """[R, M], valid until the next call. `put_tokens` may change the tokens where they lie."""
        rows = [row for piece in scheduled.sequences for row in _rows(piece)]
        first = [0, *itertools.accumulate(len(piece.tokens) for piece in scheduled.sequences)]
        groups = [PrefixGroup(group.num_tokens, tuple(first[row] for row in group.rows)) for group in groups]
        shape = self.shape_of(len(rows), max(len(piece.blocks) for piece in scheduled.sequences), len(groups))
        self._inputs.fill(shape, rows, groups, self._block_size)
        batch = self._inputs.batch(shape)
        put_tokens(batch.tokens_T)
        return self._graphs.run(shape, lambda: self._hidden(batch))[: len(rows)]

    def shape_of(self, num_rows: int, num_blocks: int, num_groups: int) -> GraphShape:
        """The least that such a step fits into."""
        size = self._sizes[bisect.bisect_left(self._sizes, num_rows)]
        width = self._widths[min(bisect.bisect_left(self._widths, num_blocks), len(self._widths) - 1)]
        return GraphShape(size, width, _num_groups(num_groups, size))

    @property
    def shapes(self) -> tuple[Hashable, ...]:
        """That are recorded now, the least recently used one first."""
        return self._graphs.shapes

    def close(self) -> None:
        """Before the process group that graphs call, if there is one."""
        self._graphs.close()


def _num_groups(count: int, num_rows: int) -> int:
    """Room for these."""
    if not count:
        return 0
    return FEW_GROUPS if count <= FEW_GROUPS else _most_groups(num_rows)


def _most_groups(num_rows: int) -> int:
    """Of two rows at least."""
    return max(FEW_GROUPS, num_rows // 2)


def _rows(piece: ScheduledSequence) -> list[ScheduledSequence]:
    """Each token for itself."""
    if len(piece.tokens) == 1:
        return [piece]
    return [
        ScheduledSequence(piece.seq_id, piece.start + at, (token,), piece.blocks, True)
        for at, token in enumerate(piece.tokens)
    ]
