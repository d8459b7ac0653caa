"""Cascade attention: groups the sequences of a step that share prefix blocks, whose keys are then read once."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import msgspec

from engine.model.block_tables import BlockTables
from engine.scheduling.scheduler_output import ScheduledSequence

__all__ = ["CascadeThresholds", "PrefixGroup", "group_by_prefix"]


class PrefixGroup(msgspec.Struct, frozen=True, array_like=True):
    num_tokens: int  # of the shared prefix
    rows: tuple[int, ...]  # indices into the step's sequences


class CascadeThresholds(msgspec.Struct, frozen=True):
    """From how many rows and shared tokens on a group pays: both numbers of some step must be reached.
    engine/execution/cascade_timing.py measures them.
    """

    steps: tuple[tuple[int, int], ...]  # (rows, tokens that they share)

    def are_reached(self, num_rows: int, num_tokens: int) -> bool:
        return any(num_rows >= rows and num_tokens >= tokens for rows, tokens in self.steps)


def group_by_prefix(
    sequences: Sequence[ScheduledSequence], tables: BlockTables, thresholds: CascadeThresholds
) -> list[PrefixGroup]:
    """Groups of single-token sequences, each of which reads its shared prefix once.

    A prefix is a multiple of the thresholds' fewest tokens, rounded up to whole blocks, and ends before every token
    of this step.
    """
    if not thresholds.steps or not tables.can_share:
        return []
    block_size = tables.block_size
    least_rows, least_tokens = (min(numbers) for numbers in zip(*thresholds.steps, strict=True))
    run = -(-least_tokens // block_size)  # blocks that are compared together
    root = _Node(0, [row for row, piece in enumerate(sequences) if len(piece.tokens) == 1])
    nodes = [root]
    for node in nodes:  # `nodes` grows in the loop
        node.children = [_Node(node.depth + 1, rows) for rows in _split(sequences, tables, node, run, least_rows)]
        nodes += node.children
    for node in reversed(nodes):
        node.choose(lambda depth, rows: thresholds.are_reached(len(rows), depth * run * block_size))
    return [PrefixGroup(depth * run * block_size, tuple(rows)) for depth, rows in root.groups]


Groups = list[tuple[int, list[int]]]  # (shared runs of blocks, rows)


class _Node:
    """A node of the prefix tree: rows whose first `depth` runs of blocks are the same."""

    def __init__(self, depth: int, rows: list[int]) -> None:
        self.depth = depth
        self.rows = rows
        self.children: list[_Node] = []
        self.groups: Groups = []

    def choose(self, is_worth: Callable[[int, list[int]], bool]) -> None:
        """Chooses the groups that save most reads: the children's groups; those children's groups that save more than
        their rows would here, and one group of the others; or all rows in one. A group that does not pay saves 0."""
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
    """The runs of blocks that are not read again."""
    return sum(depth * (len(rows) - 1) for depth, rows in groups)


def _split(
    sequences: Sequence[ScheduledSequence], tables: BlockTables, node: _Node, run: int, least_rows: int
) -> list[list[int]]:
    """The node's rows grouped by their next run of blocks, without rows that end before it and groups that are too
    small."""
    start, stop = node.depth * run, (node.depth + 1) * run
    by_blocks: defaultdict[bytes, list[int]] = defaultdict(list)
    for row in node.rows:
        if sequences[row].start >= stop * tables.block_size:
            by_blocks[tables.prefix(sequences[row], start, stop)].append(row)
    return [rows for rows in by_blocks.values() if len(rows) >= least_rows]
