"""Cascade attention: sequences of a step that share a prefix in the same blocks, so that it is read once for all."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import msgspec

from engine.scheduling.scheduler_output import ScheduledSequence

__all__ = ["CascadeThresholds", "PrefixGroup", "group_by_prefix"]


class PrefixGroup(msgspec.Struct, frozen=True, array_like=True):
    num_tokens: int  # shared, at the beginning
    rows: tuple[int, ...]  # places in the plan's slices


class CascadeThresholds(msgspec.Struct, frozen=True):
    """When a group is worth it: where it reaches both numbers of a step. engine/execution/cascade_timing.py measures
    them.
    """

    steps: tuple[tuple[int, int], ...]  # (rows, tokens that they share)

    def are_reached(self, num_rows: int, num_tokens: int) -> bool:
        return any(num_rows >= rows and num_tokens >= tokens for rows, tokens in self.steps)


def group_by_prefix(
    sequences: Sequence[ScheduledSequence], block_size: int, thresholds: CascadeThresholds
) -> list[PrefixGroup]:
    """Groups of slices with one token each: all but one of a group do without reading what it shares.

    A prefix is a multiple of the least tokens of any step, rounded up to whole blocks, and ends before every token of
    this step.
    """
    if not thresholds.steps:
        return []
    least_rows, least_tokens = (min(numbers) for numbers in zip(*thresholds.steps, strict=True))
    run = -(-least_tokens // block_size)  # blocks that are looked at together
    root = _Node(0, [row for row, piece in enumerate(sequences) if len(piece.tokens) == 1])
    nodes = [root]
    for node in nodes:  # which grow on the way
        node.children = [_Node(node.depth + 1, rows) for rows in _split(sequences, node, run, block_size, least_rows)]
        nodes += node.children
    for node in reversed(nodes):
        node.choose(lambda depth, rows: thresholds.are_reached(len(rows), depth * run * block_size))
    return [PrefixGroup(depth * run * block_size, tuple(rows)) for depth, rows in root.groups]


Groups = list[tuple[int, list[int]]]  # (runs of blocks that are shared, rows)


class _Node:
    """Rows whose first `depth` runs of blocks are the same."""

    def __init__(self, depth: int, rows: list[int]) -> None:
        self.depth = depth
        self.rows = rows
        self.children: list[_Node] = []
        self.groups: Groups = []

    def choose(self, is_worth: Callable[[int, list[int]], bool]) -> None:
        """The best of three: smaller groups that share more; of those the ones that save more than their rows would in
        a group of this node's, and such a group of all others; all rows in one. What is not worth it counts nothing."""
        below = [group for child in self.children for group in child.groups]
        kept = [(depth, rows) for depth, rows in below if depth * (len(rows) - 1) > self.depth * len(rows)]
        away = {row for _, rows in kept for row in rows}
        rest = [row for row in self.rows if row not in away]
        choices = [below]
        if self.depth:
            choices.append([*kept, (self.depth, rest)])
            choices.append([(self.depth, self.rows)])
        self.groups = max(([group for group in choice if is_worth(*group)] for choice in choices), key=_saved)


def _saved(groups: Groups) -> int:
    """Runs of blocks that are not read again."""
    return sum(depth * (len(rows) - 1) for depth, rows in groups)


def _split(
    sequences: Sequence[ScheduledSequence], node: _Node, run: int, block_size: int, least_rows: int
) -> list[list[int]]:
    """The node's rows by their next run of blocks, without those that end before it or have too few with them."""
    start, stop = node.depth * run, (node.depth + 1) * run
    by_blocks: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for row in node.rows:
        if sequences[row].start >= stop * block_size:
            by_blocks[sequences[row].blocks[start:stop]].append(row)
    return [rows for rows in by_blocks.values() if len(rows) >= least_rows]
