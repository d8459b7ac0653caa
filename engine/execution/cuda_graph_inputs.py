"""Static inputs of CUDA graphs: the tensors that they read, in the same place for every step."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import msgspec
import numpy as np
import torch
from torch import Tensor

from engine.model.block_tables import BlockTables
from engine.model.cascade import PrefixGroup
from engine.model.forward_batch import ForwardBatch
from engine.scheduling.scheduler_output import ScheduledSequence
from kernels.paged_attention.prefixes import SharedPrefixes

__all__ = ["CudaGraphInputs", "GraphShape"]


class GraphShape(msgspec.Struct, frozen=True):
    num_rows: int
    width: int  # blocks
    num_groups: int  # of sequences that share a prefix; 0: no cascade attention
    num_tables: int = 1  # of cache groups

    @property
    def long_sizes(self) -> list[int]:
        """The sizes of tokens, positions, slots of states, and slots of each cache group."""
        return [self.num_rows] * (3 + self.num_tables)

    @property
    def int_sizes(self) -> list[int]:
        """The sizes of starts and lengths; with groups, of their starts, members and shared lengths too."""
        size = self.num_rows
        return [size + 1, size, *([self.num_groups + 1, size, size] if self.num_groups else [])]


class CudaGraphInputs:
    """A step is written to pinned host memory and copied to the device twice: 64-bit and 32-bit integers.

    Block tables are copied only as wide as the step's longest sequence, behind the other ints, and spread on the
    device, where each row has the graph's width; entries past the step's width are stale and never read.
    """

    def __init__(self, largest: GraphShape, device: torch.device, has_states: bool = False) -> None:
        """`has_states`: the model is recurrent."""
        self._has_states = has_states
        pinned = device.type == "cuda"
        self._copied = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]
        num_entries = largest.num_tables * _aligned(largest.num_rows * largest.width)
        sizes = [(_room(largest.long_sizes), torch.int64), (_room(largest.int_sizes) + num_entries, torch.int32)]
        self._host = [torch.zeros(n, dtype=dtype, pin_memory=pinned) for n, dtype in sizes]
        self._there = [torch.zeros(n, dtype=dtype, device=device) for n, dtype in sizes]
        self._tables = torch.full((num_entries,), -1, dtype=torch.int32, device=device)

    def fill(
        self,
        shape: GraphShape,
        sequences: Sequence[ScheduledSequence],
        groups: Sequence[PrefixGroup],
        block_tables: BlockTables,
    ) -> None:
        """`sequences` have one token each. Rows of the shape beyond them are padding."""
        if self._copied is not None:
            self._copied.synchronize()  # on a rank that does not sample the last copy may still run
        count = len(sequences)
        # through numpy: a tensor made of lists takes milliseconds for many rows and blocks
        tokens, positions, states, *slots = (part.numpy() for part in _parts(self._host[0], shape.long_sizes))
        starts, lens, *shared = (part.numpy() for part in _parts(self._host[1], shape.int_sizes))
        tokens[:count] = [piece.tokens[0] for piece in sequences]
        positions[:count] = [piece.start for piece in sequences]
        rows = block_tables.rows(sequences)
        for part, own in zip(slots, block_tables.slots(rows, positions[:count]), strict=True):
            part[:count], part[count:] = own, -1
        states[:count] = [max(0, piece.state) for piece in sequences]
        starts[:] = np.minimum(np.arange(shape.num_rows + 1), count)
        lens[:count] = positions[:count] + 1
        for part in (tokens, positions, states, lens):
            part[count:] = 0
        if shared:
            _fill_prefixes(shared, groups)
        width = min(shape.width, block_tables.width(rows))
        num_ints = _room(shape.int_sizes)
        entries = slice(num_ints, num_ints + shape.num_tables * count * width)
        narrow = self._host[1][entries].view(shape.num_tables, count, width)
        narrow.numpy()[:] = block_tables.table(rows, width)
        for host, there, num in zip(self._host, self._there, (_room(shape.long_sizes), entries.stop), strict=True):
            there[:num].copy_(host[:num], non_blocking=True)
        if self._copied is not None:
            self._copied.record()
        self._tables_of(shape)[:, :count, :width].copy_(self._there[1][entries].view(narrow.shape))

    def batch(self, shape: GraphShape) -> ForwardBatch:
        """The inputs that were filled in last, on the device."""
        tokens, positions, states, *slots = _parts(self._there[0], shape.long_sizes)
        starts, lens, *shared = _parts(self._there[1], shape.int_sizes)
        return ForwardBatch(
            tokens,
            positions,
            slots,
            starts,
            lens,
            tuple(self._tables_of(shape)),
            None,
            SharedPrefixes(*shared) if shared else None,
            states if self._has_states else None,
        )

    def without_queries(self, shape: GraphShape) -> Callable[[], AbstractContextManager[None]]:
        """A context in which the inputs are of sequences without queries, which a step leaves as they are."""

        @contextmanager
        def emptied() -> Iterator[None]:
            starts, *_ = _parts(self._there[1], shape.int_sizes)
            before = starts.clone()
            starts.zero_()
            try:
                yield
            finally:
                starts.copy_(before)

        return emptied

    def _tables_of(self, shape: GraphShape) -> Tensor:
        """[K, rows, width], each table aligned as in _parts."""
        size = shape.num_tables, shape.num_rows, shape.width
        return self._tables.as_strided(size, (_aligned(shape.num_rows * shape.width), shape.width, 1))


def _fill_prefixes(parts: list[np.ndarray], groups: Sequence[PrefixGroup]) -> None:
    """Padding groups have no members."""
    group_starts, members, shared_lens = parts
    members.fill(0)
    shared_lens.fill(0)
    count = 0
    group_starts[0] = 0
    for number, group in enumerate(groups, 1):
        members[count : count + len(group.rows)] = group.rows
        shared_lens[list(group.rows)] = group.num_tokens
        count += len(group.rows)
        group_starts[number] = count
    group_starts[len(groups) + 1 :] = count


def _parts(memory: Tensor, sizes: list[int]) -> list[Tensor]:
    """Views one after the other, each aligned to 16 bytes: for other addresses Triton compiles a kernel again."""
    starts = itertools.accumulate(map(_aligned, sizes), initial=0)
    return [memory[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def _room(sizes: list[int]) -> int:
    return sum(map(_aligned, sizes))


def _aligned(size: int) -> int:
    """A size in numbers of four or eight bytes, rounded up to 16 bytes."""
    return -(-size // 4) * 4
