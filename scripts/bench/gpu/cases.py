"""Random inputs at any size, made on the device, and attention in float64."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Attention", "make_attention"]


@dataclass
class Attention:
    """What paged_attention takes, in its order."""

    q_THD: Tensor
    k_cache: Tensor
    v_cache: Tensor
    query_starts: Tensor
    seq_lens_S: Tensor
    block_table_SW: Tensor
    scale: float
    window: int = 0

    def arguments(self) -> tuple[Tensor | float, ...]:
        return tuple(vars(self).values())

    def alone(self, seq: int) -> "Attention":
        """One sequence without the others, and a table no wider than it needs."""
        start, stop = self.query_starts[seq : seq + 2].tolist()
        width = -(-int(self.seq_lens_S[seq]) // self.k_cache.shape[2])
        return Attention(
            self.q_THD[start:stop].contiguous(),
            self.k_cache,
            self.v_cache,
            self.query_starts.new_tensor([0, stop - start]),
            self.seq_lens_S[seq : seq + 1],
            self.block_table_SW[seq : seq + 1, :width].contiguous(),
            self.scale,
            self.window,
        )

    def expected(self) -> Tensor:
        """[T, H, D] in float64."""
        starts = self.query_starts.tolist()
        rows = [self._dense(self.alone(seq)) for seq in range(len(starts) - 1)]
        return torch.cat(rows)

    @staticmethod
    def _dense(one: "Attention") -> Tensor:
        num_queries, num_heads, head_dim = one.q_THD.shape
        seq_len = int(one.seq_lens_S[0])
        group = num_heads // one.k_cache.shape[1]

        def gathered(cache: Tensor) -> Tensor:
            dense = cache[one.block_table_SW[0].long()].transpose(0, 1).flatten(1, 2)[:, :seq_len]
            return dense.double().repeat_interleave(group, 0)

        scores = one.q_THD.double().transpose(0, 1) @ gathered(one.k_cache).transpose(1, 2) * one.scale
        query = torch.arange(seq_len - num_queries, seq_len, device=scores.device)[:, None]
        key = torch.arange(seq_len, device=scores.device)[None, :]
        unseen = (key > query) | (key <= query - one.window) if one.window else key > query
        return (scores.masked_fill(unseen, -torch.inf).softmax(-1) @ gathered(one.v_cache)).transpose(0, 1)


def make_attention(
    lens: list[int],
    counts: list[int],
    heads: tuple[int, int],
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
    window: int = 0,
    block_size: int = 16,
) -> Attention:
    """Sequences of `lens` keys of which the last `counts` have queries, in shuffled blocks. What is past a sequence's
    end in its last block is not a number."""
    num_heads, num_kv_heads = heads
    widths = [-(-length // block_size) for length in lens]
    order = torch.randperm(sum(widths), device=device).to(torch.int32)
    table = torch.full((len(lens), max(widths)), -1, dtype=torch.int32, device=device)
    shape = (sum(widths), num_kv_heads, block_size, head_dim)
    k_cache, v_cache = (torch.randn(shape, device=device, dtype=dtype) for _ in range(2))
    at = 0
    for seq, width in enumerate(widths):
        table[seq, :width] = order[at : at + width]
        at += width
        if unused := width * block_size - lens[seq]:
            last = int(table[seq, width - 1])
            k_cache[last, :, -unused:] = torch.nan
            v_cache[last, :, -unused:] = torch.nan
    starts = torch.tensor([0, *counts]).cumsum(0).to(device, torch.int32)
    q_THD = torch.randn((sum(counts), num_heads, head_dim), device=device, dtype=dtype)
    seq_lens = torch.tensor(lens, dtype=torch.int32, device=device)
    return Attention(q_THD, k_cache, v_cache, starts, seq_lens, table, head_dim**-0.5, window)
