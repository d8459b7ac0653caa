"""Decode steps as recorded graphs: what hundreds of launches do, one replay does.

A graph is recorded for a number of rows and a width of the block table, the first time that a step needs it. Steps in
between are padded: rows of padding write nowhere, sequences of padding have no queries. All graphs read the same
inputs, which are filled before each replay.
"""

import bisect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.batch import ForwardBatch
from engine.plan import SeqSlice, StepPlan

__all__ = ["Capture", "DecodeGraphs", "cuda_capture"]

Run = Callable[[], Tensor]
Capture = Callable[[Run], Run]  # what it returns does the same work again and gives the same tensor

FIRST_ROWS = (1, 2, 4)
ROWS_STEP = 8  # between sizes above
MANY_ROWS = 256  # from there on four times that
LEAST_WIDTH = 16  # blocks; every next width is twice as many


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
        self._inputs = _Inputs(self._sizes[-1], max_blocks, device)
        self._graphs: dict[tuple[int, int], Run] = {}

    def fits(self, plan: StepPlan) -> bool:
        return 0 < sum(len(slice_.tokens) for slice_ in plan.slices) <= self._max_rows and all(
            slice_.samples and len(slice_.tokens) == 1 + slice_.num_drafts and not slice_.scored
            for slice_ in plan.slices
        )

    def hidden(self, plan: StepPlan, put_tokens: Callable[[Tensor], None] = lambda tokens_T: None) -> Tensor:
        """[R, M], valid until the next call. `put_tokens` may change the tokens where they lie."""
        rows = [row for slice_ in plan.slices for row in _rows(slice_)]
        size = self._sizes[bisect.bisect_left(self._sizes, len(rows))]
        width = self._width(max(len(slice_.blocks) for slice_ in plan.slices))
        self._inputs.fill(rows, size, width, self._block_size)
        put_tokens(self._inputs.batch(size, width).tokens_T)
        replay = self._graphs.get((size, width))
        if replay is None:
            batch = self._inputs.batch(size, width)
            replay = self._graphs[size, width] = self._capture(lambda: self._hidden(batch))
        return replay()[: len(rows)]

    def warm_up(self) -> None:
        """Records the graph of one short sequence, and with it compiles what every other one needs.

        It computes padding alone: nothing is written to any block.
        """
        size, width = self._sizes[0], self._width(1)
        self._inputs.fill((), size, width, self._block_size)
        batch = self._inputs.batch(size, width)
        self._graphs[size, width] = self._capture(lambda: self._hidden(batch))

    def _width(self, num_blocks: int) -> int:
        width = LEAST_WIDTH
        while width < num_blocks:
            width *= 2
        return min(width, self._max_blocks)


def _rows(slice_: SeqSlice) -> list[SeqSlice]:
    """Each token for itself."""
    if len(slice_.tokens) == 1:
        return [slice_]
    return [
        SeqSlice(slice_.seq_id, slice_.start + at, (token,), slice_.blocks, True)
        for at, token in enumerate(slice_.tokens)
    ]


class _Inputs:
    """The tensors that graphs read. A step is written to host memory first, and goes over in two copies."""

    def __init__(self, most: int, max_blocks: int, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._copied = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]
        # tokens, positions and slots; starts, lengths and tables
        num_ints = (3 * most, 2 * most + 1 + most * max_blocks)
        types = (torch.int64, torch.int32)
        self._host = [torch.zeros(n, dtype=d, pin_memory=pinned) for n, d in zip(num_ints, types, strict=True)]
        self._there = [torch.zeros(n, dtype=d, device=device) for n, d in zip(num_ints, types, strict=True)]
        self._rows = torch.arange(most, device=device)

    def fill(self, slices: Sequence[SeqSlice], size: int, width: int, block_size: int) -> None:
        """`slices` have one token each."""
        if self._copied is not None:
            self._copied.synchronize()  # a rank that does not sample may be a step behind
        tokens, positions, slots, starts, lens, table = _parts(self._host, size, width)
        padding = size - len(slices)
        at = [slice_.start for slice_ in slices]
        tokens[:] = torch.tensor([slice_.tokens[0] for slice_ in slices] + [0] * padding)
        positions[:] = torch.tensor(at + [0] * padding)
        where = [(slice_.blocks[slice_.start // block_size], slice_.start % block_size) for slice_ in slices]
        slots[:] = torch.tensor([block * block_size + rest for block, rest in where] + [-1] * padding)
        starts[:] = torch.arange(size + 1).clamp(max=len(slices))
        lens[:] = torch.tensor([start + 1 for start in at] + [0] * padding)
        rows = [slice_.blocks[:width] + (-1,) * (width - len(slice_.blocks)) for slice_ in slices]
        table[:] = torch.tensor(rows + [(-1,) * width] * padding)
        for here, there, part in zip(self._host, self._there, (3 * size, 2 * size + 1 + size * width), strict=True):
            there[:part].copy_(here[:part], non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def batch(self, size: int, width: int) -> ForwardBatch:
        tokens, positions, slots, starts, lens, table = _parts(self._there, size, width)
        return ForwardBatch(tokens, positions, slots, starts, lens, table, self._rows[:size])


def _parts(memory: list[Tensor], size: int, width: int) -> tuple[Tensor, ...]:
    """Of a step: tokens, positions, slots [size]; starts [size + 1], lengths [size], tables [size, width]."""
    long, short = memory
    table = short[2 * size + 1 : 2 * size + 1 + size * width].view(size, width)
    return *long[: 3 * size].view(3, size), short[: size + 1], short[size + 1 : 2 * size + 1], table


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
