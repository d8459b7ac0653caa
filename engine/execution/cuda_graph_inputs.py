"""Static inputs of CUDA graphs: the tensors that they read, in the same place for every step."""

import itertools
from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from torch import Tensor

from engine.model.cascade import PrefixGroup
from engine.model.forward_batch import ForwardBatch
from engine.scheduling.scheduler_output import ScheduledSequence
from kernels.paged_attention.prefixes import SharedPrefixes

__all__ = ["CudaGraphInputs", "GraphShape"]


class GraphShape(msgspec.Struct, frozen=True):
    num_rows: int
    width: int  # blocks
    num_groups: int  # that share a prefix; 0: none is read for several rows at once

    @property
    def long_sizes(self) -> list[int]:
        """Of tokens, positions and slots."""
        return [self.num_rows] * 3

    @property
    def int_sizes(self) -> list[int]:
        """Of starts and lengths; where there are groups, of their starts, members and shared lengths."""
        size = self.num_rows
        return [size + 1, size, *([self.num_groups + 1, size, size] if self.num_groups else [])]


class CudaGraphInputs:
    """A step is written to host memory first, and goes over in two copies.

    The table goes as narrow as the step's longest sequence is, behind the other ints, and is spread on the device:
    there each row is as wide as the graph's, and what lies past the step's width is an earlier step's, which nobody
    reads.
    """

    def __init__(self, largest: GraphShape, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._copied = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]
        num_entries = largest.num_rows * largest.width
        sizes = [(_room(largest.long_sizes), torch.int64), (_room(largest.int_sizes) + num_entries, torch.int32)]
        self._host = [torch.zeros(n, dtype=dtype, pin_memory=pinned) for n, dtype in sizes]
        self._there = [torch.zeros(n, dtype=dtype, device=device) for n, dtype in sizes]
        self._table = torch.full((num_entries,), -1, dtype=torch.int32, device=device)
        self._rows = torch.arange(largest.num_rows, device=device)

    def fill(
        self, shape: GraphShape, sequences: Sequence[ScheduledSequence], groups: Sequence[PrefixGroup], block_size: int
    ) -> None:
        """`slices` have one token each. What the shape has beyond them is padding."""
        if self._copied is not None:
            self._copied.synchronize()  # a rank that does not sample may be a step behind
        count = len(sequences)
        # through numpy: a tensor of lists takes milliseconds where rows and blocks are many
        tokens, positions, slots = (part.numpy() for part in _parts(self._host[0], shape.long_sizes))
        starts, lens, *shared = (part.numpy() for part in _parts(self._host[1], shape.int_sizes))
        tokens[:count] = [piece.tokens[0] for piece in sequences]
        positions[:count] = [piece.start for piece in sequences]
        slots[:count] = [
            piece.blocks[piece.start // block_size] * block_size + piece.start % block_size for piece in sequences
        ]
        starts[:] = np.minimum(np.arange(shape.num_rows + 1), count)
        lens[:count] = positions[:count] + 1
        for part, padding in ((tokens, 0), (positions, 0), (slots, -1), (lens, 0)):
            part[count:] = padding
        if shared:
            _fill_prefixes(shared, groups)
        width = min(shape.width, max(len(piece.blocks) for piece in sequences))
        num_ints = _room(shape.int_sizes)
        entries = slice(num_ints, num_ints + count * width)
        narrow = self._host[1][entries].view(count, width).numpy()
        narrow.fill(-1)
        for row, piece in zip(narrow, sequences, strict=True):
            row[: len(piece.blocks)] = piece.blocks[:width]
        for host, there, num in zip(self._host, self._there, (_room(shape.long_sizes), entries.stop), strict=True):
            there[:num].copy_(host[:num], non_blocking=True)
        if self._copied is not None:
            self._copied.record()
        self._table_of(shape)[:count, :width].copy_(self._there[1][entries].view(count, width))

    def batch(self, shape: GraphShape) -> ForwardBatch:
        """What was filled in last, on the device."""
        tokens, positions, slots = _parts(self._there[0], shape.long_sizes)
        starts, lens, *shared = _parts(self._there[1], shape.int_sizes)
        return ForwardBatch(
            tokens,
            positions,
            slots,
            starts,
            lens,
            self._table_of(shape),
            self._rows[: shape.num_rows],
            SharedPrefixes(*shared) if shared else None,
        )

    def _table_of(self, shape: GraphShape) -> Tensor:
        return self._table[: shape.num_rows * shape.width].view(shape.num_rows, shape.width)


def _fill_prefixes(parts: list[np.ndarray], groups: Sequence[PrefixGroup]) -> None:
    """Groups of padding have no members."""
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
    """One after the other, each at a multiple of 16 bytes: of other addresses Triton compiles its kernels once more."""
    starts = itertools.accumulate(map(_aligned, sizes), initial=0)
    return [memory[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def _room(sizes: list[int]) -> int:
    return sum(map(_aligned, sizes))


def _aligned(size: int) -> int:
    """Numbers of four or eight bytes."""
    return -(-size // 4) * 4
