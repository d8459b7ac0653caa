"""Decode steps as recorded graphs: what hundreds of launches do, one replay does.

A graph is recorded for a shape, the first time that a step needs it: a number of rows, a width of the block table and
a number of groups that share a prefix. Steps in between are padded: rows of padding write nowhere, sequences of padding
have no queries, groups of padding no members. All graphs read the same inputs, which are filled before each replay.
"""

import bisect
import itertools
from collections.abc import Callable, Sequence

import msgspec
import torch
from torch import Tensor

from engine.batch import ForwardBatch
from engine.cascade import PrefixGroup
from engine.plan import SeqSlice, StepPlan
from kernels.paged_attention.prefixes import SharedPrefixes

__all__ = ["Capture", "DecodeGraphs", "Run", "cuda_capture"]

Run = Callable[[], Tensor]
Capture = Callable[[Run], Run]  # what it returns does the same work again and gives the same tensor

FIRST_ROWS = (1, 2, 4)
ROWS_STEP = 8  # between sizes above
MANY_ROWS = 256  # from there on four times that
LEAST_WIDTH = 16  # blocks; every next width is twice as many
GROUPS_STEP = 4  # so many times more groups has the next number of them


class Shape(msgspec.Struct, frozen=True):
    """Of a graph's inputs."""

    num_rows: int
    width: int  # blocks
    num_groups: int  # 0: no prefix is read for several rows at once

    @property
    def long_sizes(self) -> list[int]:
        """Of tokens, positions and slots."""
        return [self.num_rows] * 3

    @property
    def int_sizes(self) -> list[int]:
        """Of starts, lengths and block table; where there are groups, of their starts, members and shared lengths."""
        size = self.num_rows
        groups = [self.num_groups + 1, size, size] if self.num_groups else []
        return [size + 1, size, size * self.width, *groups]


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
        self._graphs: dict[Shape, Run] = {}

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
        shape = Shape(
            self._sizes[bisect.bisect_left(self._sizes, len(rows))],
            self._width(max(len(slice_.blocks) for slice_ in plan.slices)),
            _num_groups(groups),
        )
        self._inputs.fill(shape, rows, groups, self._block_size)
        put_tokens(self._inputs.batch(shape).tokens_T)
        return self._run(shape)()[: len(rows)]

    def warm_up(self) -> None:
        """Records the graph of one short sequence, and with it compiles what every other one needs.

        It computes padding alone: nothing is written to any block.
        """
        shape = Shape(self._sizes[0], self._width(1), 0)
        self._inputs.fill(shape, (), (), self._block_size)
        self._run(shape)

    def _run(self, shape: Shape) -> Run:
        run = self._graphs.get(shape)
        if run is None:
            batch = self._inputs.batch(shape)
            run = self._graphs[shape] = self._capture(lambda: self._hidden(batch))
        return run

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


class _Inputs:
    """The tensors that graphs read. A step is written to host memory first, and goes over in two copies."""

    def __init__(self, most: int, max_blocks: int, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._copied = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]
        largest = Shape(most, max_blocks, GROUPS_STEP * most)
        sizes = [(_room(largest.long_sizes), torch.int64), (_room(largest.int_sizes), torch.int32)]
        self._host = [torch.zeros(n, dtype=dtype, pin_memory=pinned) for n, dtype in sizes]
        self._there = [torch.zeros(n, dtype=dtype, device=device) for n, dtype in sizes]
        self._rows = torch.arange(most, device=device)

    def fill(self, shape: Shape, slices: Sequence[SeqSlice], groups: Sequence[PrefixGroup], block_size: int) -> None:
        """`slices` have one token each."""
        if self._copied is not None:
            self._copied.synchronize()  # a rank that does not sample may be a step behind
        size, width = shape.num_rows, shape.width
        here = _batch(self._host, shape, self._rows)
        padding = size - len(slices)
        at = [slice_.start for slice_ in slices]
        here.tokens_T[:] = torch.tensor([slice_.tokens[0] for slice_ in slices] + [0] * padding)
        here.positions_T[:] = torch.tensor(at + [0] * padding)
        where = [(slice_.blocks[slice_.start // block_size], slice_.start % block_size) for slice_ in slices]
        here.slots_T[:] = torch.tensor([block * block_size + rest for block, rest in where] + [-1] * padding)
        here.query_starts[:] = torch.arange(size + 1).clamp(max=len(slices))
        here.seq_lens_S[:] = torch.tensor([start + 1 for start in at] + [0] * padding)
        rows = [slice_.blocks[:width] + (-1,) * (width - len(slice_.blocks)) for slice_ in slices]
        here.block_table_SW[:] = torch.tensor(rows + [(-1,) * width] * padding)
        if here.prefixes is not None:
            _fill_prefixes(here.prefixes, groups)
        for host, there, sizes in zip(self._host, self._there, (shape.long_sizes, shape.int_sizes), strict=True):
            there[: _room(sizes)].copy_(host[: _room(sizes)], non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def batch(self, shape: Shape) -> ForwardBatch:
        return _batch(self._there, shape, self._rows)


def _fill_prefixes(prefixes: SharedPrefixes, groups: Sequence[PrefixGroup]) -> None:
    prefixes.shared_lens_S.zero_()
    prefixes.members.zero_()
    count = 0
    for number, group in enumerate(groups, 1):
        rows = torch.tensor(group.rows)
        prefixes.members[count : count + len(rows)] = rows
        prefixes.shared_lens_S[rows] = group.num_tokens
        count += len(rows)
        prefixes.group_starts[number] = count
    prefixes.group_starts[len(groups) + 1 :] = count


def _batch(memory: list[Tensor], shape: Shape, rows: Tensor) -> ForwardBatch:
    """What lies in the memory, first in it what every step has."""
    longs, ints = memory
    tokens, positions, slots = _parts(longs, shape.long_sizes)
    starts, lens, table, *shared = _parts(ints, shape.int_sizes)
    return ForwardBatch(
        tokens,
        positions,
        slots,
        starts,
        lens,
        table.view(shape.num_rows, shape.width),
        rows[: shape.num_rows],
        SharedPrefixes(*shared) if shared else None,
    )


def _parts(memory: Tensor, sizes: list[int]) -> list[Tensor]:
    """One after the other, each at a multiple of 16 bytes: of other addresses Triton compiles its kernels once more."""
    starts = itertools.accumulate(map(_aligned, sizes), initial=0)
    return [memory[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def _room(sizes: list[int]) -> int:
    return sum(map(_aligned, sizes))


def _aligned(size: int) -> int:
    """Numbers of four or eight bytes."""
    return -(-size // 4) * 4


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
