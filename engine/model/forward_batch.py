"""The forward batch: the tensors of one step. The only place where a SchedulerOutput becomes tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from engine.device.transfer import to_device
from engine.model.cascade import PrefixGroup
from engine.scheduling.scheduler_output import SchedulerOutput
from kernels.causal_conv.layout import StateLayout
from kernels.paged_attention.prefixes import SharedPrefixes
from kernels.paged_attention.spec import AttentionLayout

__all__ = ["ForwardBatch"]


@dataclass(frozen=True)
class ForwardBatch:
    """The tensors of one step, its sequences one after the other.

    step    A: tokens 7 8 9 from position 4, B: token 5 at position 2, both sample; block size 4, blocks A [3 6], B [1]

    tokens        7  8  9 | 5
    positions     4  5  6 | 2
    slots        24 25 26 | 6     block * 4 + position % 4
    query_starts  0         3  4
    seq_lens      7, 3
    sample_rows         2   3     (and 0, 1 before them if the logprobs of A's tokens 8 and 9 are wanted)
    """

    tokens_T: Tensor  # int64
    positions_T: Tensor  # int64
    slots_T: Tensor  # int64
    query_starts: Tensor  # [S + 1] int32
    seq_lens_S: Tensor  # int32, this step's tokens included
    block_table_SW: Tensor  # int32; -1 past a sequence's blocks
    sample_rows_R: Tensor | None  # int64, rows whose logits are wanted; None: all, in order
    prefixes: SharedPrefixes | None = None  # of cascade attention; None: no groups
    slots_S: Tensor | None = None  # int64, of recurrent states; None: the model has none
    samples_last: bool = False  # the sampled rows are the last ones of their sequences

    @cached_property
    def layout(self) -> AttentionLayout:
        """The arguments of attention."""
        return AttentionLayout(self.query_starts, self.seq_lens_S, self.block_table_SW, self.prefixes)

    @cached_property
    def states(self) -> StateLayout | None:
        """The layout of recurrent layers."""
        if self.slots_S is None:
            return None
        return StateLayout(self.query_starts, self.seq_lens_S, self.slots_S)

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
            slots_T=self.slots_T[rows_R],
            query_starts=torch.searchsorted(rows_R, self.query_starts.long()).int(),
            sample_rows_R=None,
        )

    @classmethod
    def from_plan(
        cls, scheduled: SchedulerOutput, block_size: int, device: torch.device, groups: Sequence[PrefixGroup] = ()
    ) -> "ForwardBatch":
        """`groups` are those of cascade attention."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        starts, lens = [0], []
        rows: list[int] = []
        for piece in scheduled.sequences:
            stop = piece.start + len(piece.tokens)
            tokens += piece.tokens
            positions += range(piece.start, stop)
            slots += [piece.blocks[at // block_size] * block_size + at % block_size for at in range(piece.start, stop)]
            starts.append(len(tokens))
            lens.append(stop)
            rows += range(starts[-2], starts[-2] + len(piece.scored))
            if piece.samples:
                rows += range(len(tokens) - 1 - piece.num_draft_tokens, len(tokens))
        # in numpy: a tensor made of lists takes milliseconds for many rows and blocks
        table = np.full(
            (len(scheduled.sequences), max(len(piece.blocks) for piece in scheduled.sequences)), -1, np.int32
        )
        for row, piece in zip(table, scheduled.sequences, strict=True):
            row[: len(piece.blocks)] = piece.blocks
        return cls(
            to_device(tokens, device),
            to_device(positions, device),
            to_device(slots, device),
            to_device(starts, device, torch.int32),
            to_device(lens, device, torch.int32),
            to_device(torch.from_numpy(table), device),
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
