"""Tensor parallelism as a value: rank, size and collectives; column-parallel and row-parallel shards.

Every rank holds some heads and some of the feed-forward's inner dimensions (Megatron-LM, arXiv 1909.08053): the first
matrix of a pair is column-parallel, the second row-parallel, with one all-reduce per pair. With more ranks than KV
heads, several ranks hold the same one; the LM head is sharded over the vocabulary.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.checkpoint.shard import Shard

__all__ = ["Collective", "TensorParallel"]


class Collective(Protocol):
    """A process group. All ranks make the same calls in the same order. A lost rank raises RuntimeError."""

    name: str  # of the backend
    in_order: bool  # the all-reduce always adds in the order of the ranks

    def all_reduce(self, x: Tensor) -> None: ...

    def gather(self, x: Tensor) -> Tensor | None: ...

    def abort(self) -> None: ...

    def unlink(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class TensorParallel:
    rank: int = 0
    size: int = 1
    group: Collective | None = None

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of x over all ranks, in place."""
        if self.group is not None:
            self.group.all_reduce(x)
        return x

    def broadcast(self, x: Tensor) -> Tensor:
        """Rank 0's x at every rank; other ranks' x has its shape. Values are below 2^24, which fp32 holds exactly."""
        if self.group is None:
            return x
        return self.all_reduce(x.float() * (self.rank == 0)).to(x.dtype)

    def all_reduce_min(self, number: int, most: int, device: torch.device) -> int:
        """The minimum of all ranks' numbers, each from 0 to `most`."""
        if self.group is None:
            return number
        reached = torch.arange(1, most + 1, device=device) <= number
        return int((self.all_reduce(reached.float()) == self.size).sum())

    def gather_columns(self, x_RV: Tensor, num_columns: int) -> Tensor:
        """At rank 0 the columns of all ranks, [R, num_columns]; elsewhere x_RV itself."""
        if self.group is None:
            return x_RV
        parts = self.group.gather(x_RV)
        return x_RV if parts is None else parts.transpose(0, 1).flatten(1)[:, :num_columns]

    def rows(self, count: int, unit: int = 1) -> Shard:
        """This rank's shard of `count` units of `unit` rows."""
        return self._share(0, count, unit)

    def whole_rows(self, count: int) -> Shard:
        """All rows, on every rank."""
        return Shard(0, 0, count)

    def columns(self, count: int, unit: int = 1) -> Shard:
        return self._share(1, count, unit)

    def kv_rows(self, num_kv_heads: int, head_dim: int) -> Shard:
        """This rank's KV heads; if there are fewer than ranks, several ranks have the same one."""
        if num_kv_heads >= self.size:
            return self.rows(num_kv_heads, head_dim)
        head = self.rank * num_kv_heads // self.size
        return Shard(0, head * head_dim, (head + 1) * head_dim)

    def _share(self, dim: int, count: int, unit: int) -> Shard:
        each = -(-count // self.size)
        start, stop = min(count, self.rank * each), min(count, (self.rank + 1) * each)
        return Shard(dim, start * unit, stop * unit)
