"""Decode steps as recorded graphs: what hundreds of launches do, one replay does.

A graph is recorded for a shape, the first time that a step needs it: a number of rows, a width of the block table and
a number of groups that share a prefix. Steps in between are padded: rows of padding write nowhere, sequences of padding
have no queries, groups of padding no members. All graphs read the same inputs, which are filled before each replay.
"""

import bisect
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.batch import ForwardBatch
from engine.cascade import PrefixGroup
from engine.graph_inputs import GraphInputs, GraphShape
from engine.plan import SeqSlice, StepPlan

__all__ = ["Capture", "DecodeGraphs", "Run", "cuda_capture"]

Run = Callable[[], Tensor]
Capture = Callable[[Run], Run]  # what it returns does the same work again and gives the same tensor

FIRST_ROWS = (1, 2, 4)
ROWS_STEP = 8  # between sizes above
MANY_ROWS = 256  # from there on four times that
LEAST_WIDTH = 16  # blocks; every next width is twice as many
GROUPS_STEP = 4  # so many times more groups has the next number of them


class DecodeGraphs:
    """Replays steps in which each sequence computes one token, or some with guesses behind it, and samples from each.

    A token is a row. Rows of one sequence stand beside each other as if they were several that share their blocks:
    attention looks at the keys only when all of a step's are written.
    """

    def __init__(
        self,
        hidden: Callable[[ForwardBatch], Tensor],
        capture: Capture,
        *,
        max_rows: int,
        max_blocks: int,
        block_size: int,
        device: torch.device,
    ) -> None:
        """`hidden` gives the rows that are sampled from, [R, M]. `max_blocks` is what one sequence has at most."""
        self._hidden = hidden
        self._capture = capture
        self._block_size = block_size
        self._max_rows, self._max_blocks = max_rows, max_blocks
        self._sizes = list(FIRST_ROWS)
        while self._sizes[-1] < max_rows:
            step = ROWS_STEP if self._sizes[-1] < MANY_ROWS else 4 * ROWS_STEP
            self._sizes.append((self._sizes[-1] // step + 1) * step)
        most = self._sizes[-1]
        self._inputs = GraphInputs(GraphShape(most, max_blocks, GROUPS_STEP * most), device)
        self._graphs: dict[GraphShape, Run] = {}

    def fits(self, plan: StepPlan) -> bool:
        return 0 < sum(len(slice_.tokens) for slice_ in plan.slices) <= self._max_rows and all(
            slice_.samples and len(slice_.tokens) == 1 + slice_.num_drafts and not slice_.scored
            for slice_ in plan.slices
        )

    def hidden(
        self,
        plan: StepPlan,
        groups: Sequence[PrefixGroup] = (),
        put_tokens: Callable[[Tensor], None] = lambda tokens_T: None,
    ) -> Tensor:
        """[R, M], valid until the next call. `put_tokens` may change the tokens where they lie."""
        rows = [row for slice_ in plan.slices for row in _rows(slice_)]
        first = [0, *itertools.accumulate(len(slice_.tokens) for slice_ in plan.slices)]
        groups = [PrefixGroup(group.num_tokens, tuple(first[row] for row in group.rows)) for group in groups]
        shape = GraphShape(
            self._sizes[bisect.bisect_left(self._sizes, len(rows))],
            self._width(max(len(slice_.blocks) for slice_ in plan.slices)),
            _num_groups(groups),
        )
        self._inputs.fill(shape, rows, groups, self._block_size)
        batch = self._inputs.batch(shape)
        put_tokens(batch.tokens_T)
        run = self._graphs.get(shape)
        if run is None:
            run = self._graphs[shape] = self._capture(lambda: self._hidden(batch))
        return run()[: len(rows)]

    def _width(self, num_blocks: int) -> int:
        width = LEAST_WIDTH
        while width < num_blocks:
            width *= 2
        return min(width, self._max_blocks)


def _num_groups(groups: Sequence[PrefixGroup]) -> int:
    """Room for these and some more."""
    room = 1 if groups else 0
    while room < len(groups):
        room *= GROUPS_STEP
    return room


def _rows(slice_: SeqSlice) -> list[SeqSlice]:
    """Each token for itself."""
    if len(slice_.tokens) == 1:
        return [slice_]
    return [
        SeqSlice(slice_.seq_id, slice_.start + at, (token,), slice_.blocks, True)
        for at, token in enumerate(slice_.tokens)
    ]


def cuda_capture(device: torch.device) -> Capture:
    """CUDA graphs, which share their scratch memory: only one may run at a time."""
    pool = torch.cuda.graph_pool_handle()
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def capture(run: Run) -> Run:
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            run()  # compiles what has not been, and lets libraries allocate
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            out = run()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay

    return capture
