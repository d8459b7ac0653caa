"""Decode steps as recorded graphs: what hundreds of launches do, one replay does.

A graph is recorded for a number of rows and a width of the block table, the first time that a step needs it. Steps in
between are padded: rows of padding write nowhere, sequences of padding have no queries. All graphs read the same
inputs, which are filled before each replay.
"""

import bisect
from collections.abc import Callable, Sequence

import numpy as np
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
        num_ints = _Layout(most, max_blocks).num_ints
        types = (torch.int64, torch.int32)
        self._host = [torch.zeros(n, dtype=d, pin_memory=pinned) for n, d in zip(num_ints, types, strict=True)]
        self._there = [torch.zeros(n, dtype=d, device=device) for n, d in zip(num_ints, types, strict=True)]
        self._rows = torch.arange(most, device=device)

    def fill(self, slices: Sequence[SeqSlice], size: int, width: int, block_size: int) -> None:
        """`slices` have one token each."""
        if self._copied is not None:
            self._copied.synchronize()  # a rank that does not sample may be a step behind
        layout, count = _Layout(size, width), len(slices)
        # through numpy: a tensor of lists takes milliseconds where rows and blocks are many
        tokens, positions, slots, starts, lens, table = (part.numpy() for part in layout.parts(self._host))
        tokens[:count] = [slice_.tokens[0] for slice_ in slices]
        positions[:count] = [slice_.start for slice_ in slices]
        slots[:count] = [
            slice_.blocks[slice_.start // block_size] * block_size + slice_.start % block_size for slice_ in slices
        ]
        starts[:] = np.minimum(np.arange(size + 1), count)
        lens[:count] = positions[:count] + 1
        for part, padding in ((tokens, 0), (positions, 0), (slots, -1), (lens, 0)):
            part[count:] = padding
        table.fill(-1)
        for row, slice_ in zip(table, slices, strict=False):
            row[: len(slice_.blocks)] = slice_.blocks[:width]
        for here, there, used in zip(self._host, self._there, layout.num_ints, strict=True):
            there[:used].copy_(here[:used], non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def batch(self, size: int, width: int) -> ForwardBatch:
        tokens, positions, slots, starts, lens, table = _Layout(size, width).parts(self._there)
        return ForwardBatch(tokens, positions, slots, starts, lens, table, self._rows[:size])


class _Layout:
    """Where the parts of a step lie in two tensors, one of int64 and one of int32.

    Each part begins at a multiple of 16 bytes, as a tensor of its own does: Triton compiles a kernel anew for pointers
    that do not.
    """

    def __init__(self, size: int, width: int) -> None:
        self._size, self._width = size, width
        self._long, self._starts, self._lens = size + size % 2, _aligned(size + 1), _aligned(size)
        self.num_ints = 3 * self._long, self._starts + self._lens + size * width

    def parts(self, memory: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Tokens, positions, slots [size]; starts [size + 1], lengths [size], tables [size, width]."""
        (long, short), size = memory, self._size
        first, second = self._starts, self._starts + self._lens
        table = short[second : second + size * self._width].view(size, self._width)
        longs = (long[at * self._long :][:size] for at in range(3))
        return *longs, short[: size + 1], short[first : first + size], table


def _aligned(num_ints: int) -> int:
    """Up to a multiple of 4, of which an int32 takes 4 bytes."""
    return -(-num_ints // 4) * 4


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
