"""The forward batch: the tensors of one step. The only place where a SchedulerOutput becomes tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from engine.device.transfer import to_device
from engine.model.block_tables import BlockTables
from engine.model.cascade import PrefixGroup
from engine.scheduling.scheduler_output import SchedulerOutput
from kernels.causal_conv.layout import StateLayout
from kernels.paged_attention.prefixes import SharedPrefixes
from kernels.paged_attention.spec import AttentionLayout

__all__ = ["ForwardBatch", "LayerBatch"]


@dataclass(frozen=True)
class LayerBatch:
    """What a layer's mixer takes of a step: the blocks are those of the layer's cache group."""

    positions_T: Tensor  # int64
    slots_T: Tensor  # int64, where keys and values are written
    layout: AttentionLayout
    states: StateLayout | None  # of recurrent layers; None: the model has none


@dataclass(frozen=True)
class ForwardBatch:
    """The tensors of one step, its sequences one after the other.

    step    A: tokens 7 8 9 from position 4, B: token 5 at position 2, both sample; block size 4, blocks A [3 6], B [1]

    tokens        7  8  9 | 5
    positions     4  5  6 | 2
    slots        24 25 26 | 6     block * 4 + position % 4, in each of K cache groups
    query_starts  0         3  4
    seq_lens      7, 3
    sample_rows         2   3     (and 0, 1 before them if the logprobs of A's tokens 8 and 9 are wanted)
    """

    tokens_T: Tensor  # int64
    positions_T: Tensor  # int64
    slots_KT: Sequence[Tensor]  # int64
    query_starts: Tensor  # [S + 1] int32
    seq_lens_S: Tensor  # int32, this step's tokens included
    block_tables_KSW: Sequence[Tensor]  # int32; engine/model/block_tables.py
    sample_rows_R: Tensor | None  # int64, rows whose logits are wanted; None: all, in order
    prefixes: SharedPrefixes | None = None  # of cascade attention; None: no groups
    slots_S: Tensor | None = None  # int64, of recurrent states; None: the model has none
    samples_last: bool = False  # the sampled rows are the last ones of their sequences

    @cached_property
    def by_group(self) -> tuple[LayerBatch, ...]:
        """What the layers of each cache group take."""
        starts, lens = self.query_starts, self.seq_lens_S
        states = None if self.slots_S is None else StateLayout(starts, lens, self.slots_S)
        return tuple(
            LayerBatch(self.positions_T, slots_T, AttentionLayout(starts, lens, table_SW, self.prefixes), states)
            for slots_T, table_SW in zip(self.slots_KT, self.block_tables_KSW, strict=True)
        )

    def sampled(self) -> "ForwardBatch":
        """The batch of the sampled rows alone, where these are the last of their sequences: for layers that write no
        keys and have no state, in which a row does not need the others.

        step A samples 9 of 7 8 9, B samples 5     query_starts  0 3 4  become  0 1 2; seq_lens stay
        """
        rows_R = self.sample_rows_R
        assert self.samples_last and rows_R is not None
        return replace(
            self,
            tokens_T=self.tokens_T[rows_R],
            positions_T=self.positions_T[rows_R],
            slots_KT=tuple(slots_T[rows_R] for slots_T in self.slots_KT),
            query_starts=torch.searchsorted(rows_R, self.query_starts.long()).int(),
            sample_rows_R=None,
        )

    @classmethod
    def from_scheduled(
        cls,
        scheduled: SchedulerOutput,
        tables: BlockTables,
        device: torch.device,
        groups: Sequence[PrefixGroup] = (),
    ) -> "ForwardBatch":
        """`tables` have the step's blocks; `groups` are those of cascade attention."""
        tokens: list[int] = []
        positions: list[int] = []
        starts, lens = [0], []
        rows: list[int] = []
        for piece in scheduled.sequences:
            stop = piece.start + len(piece.tokens)
            tokens += piece.tokens
            positions += range(piece.start, stop)
            starts.append(len(tokens))
            lens.append(stop)
            rows += range(starts[-2], starts[-2] + len(piece.scored))
            if piece.samples:
                rows += range(len(tokens) - 1 - piece.num_draft_tokens, len(tokens))
        # in numpy: a tensor made of lists takes milliseconds for many rows and blocks
        rows_S, positions_T = tables.rows(scheduled.sequences), np.array(positions, np.int64)
        # of each group aligned to 16 bytes: for other addresses Triton compiles a kernel again
        slots_KT = np.empty((tables.num_groups, len(positions) + len(positions) % 2), np.int64)
        slots_KT[:, : len(positions)] = tables.slots(np.repeat(rows_S, np.diff(starts)), positions_T)
        table_KSW = tables.table(rows_S, -(-tables.width(rows_S) // 4) * 4)
        return cls(
            to_device(tokens, device),
            to_device(torch.from_numpy(positions_T), device),
            tuple(to_device(torch.from_numpy(slots_KT), device)[:, : len(positions)]),
            to_device(starts, device, torch.int32),
            to_device(lens, device, torch.int32),
            tuple(to_device(torch.from_numpy(table_KSW), device)),
            to_device(rows, device, torch.int64),
            _shared_prefixes(groups, len(scheduled.sequences), device),
            _slots(scheduled, device),
            samples_last=not any(piece.scored for piece in scheduled.sequences),
        )


def _slots(scheduled: SchedulerOutput, device: torch.device) -> Tensor | None:
    slots = [piece.state for piece in scheduled.sequences]
    return to_device(slots, device, torch.int64) if max(slots, default=-1) >= 0 else None


def _shared_prefixes(groups: Sequence[PrefixGroup], num_rows: int, device: torch.device) -> SharedPrefixes | None:
    if not groups:
        return None
    starts, shared_lens = [0], [0] * num_rows
    members: list[int] = []
    for group in groups:
        members += group.rows
        starts.append(len(members))
        for row in group.rows:
            shared_lens[row] = group.num_tokens
    return SharedPrefixes(*(to_device(ints, device, torch.int32) for ints in (starts, members, shared_lens)))
