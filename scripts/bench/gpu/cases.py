"""Random inputs at any size, made on the device, and attention in float64."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kernels.paged_attention.prefixes import SharedPrefixes
from kernels.paged_attention.spec import AttentionLayout, AttentionSpec
from kernels.quantized_linear.reference import GroupQuantized

__all__ = ["PLAIN", "Attention", "AttentionRules", "AttentionShape", "make_attention", "random_ints"]


@dataclass(frozen=True)
class AttentionShape:
    """Sequences of `lens` keys, of which the last `counts` have queries."""

    lens: list[int]
    counts: list[int]
    heads: tuple[int, int]  # query heads, KV heads
    head_dim: int

    @classmethod
    def decode(cls, batch: int, context: int, heads: tuple[int, int], head_dim: int) -> "AttentionShape":
        return cls([context] * batch, [1] * batch, heads, head_dim)

    @classmethod
    def prefill(cls, length: int, heads: tuple[int, int], head_dim: int) -> "AttentionShape":
        return cls([length], [length], heads, head_dim)


@dataclass(frozen=True)
class AttentionRules:
    """What attention may have besides."""

    window: int = 0
    block_size: int = 16
    soft_cap: float = 0.0
    sinks: bool = False
    fp8: bool = False
    logarithms: bool = False
    shared: int = 0  # so many first keys, of whole blocks, are everybody's
    grouped: bool = True  # attention is told so


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
    soft_cap: float = 0.0
    sinks_H: Tensor | None = None
    k_scale_G: Tensor | None = None
    v_scale_G: Tensor | None = None
    lse_out_TH: Tensor | None = None
    prefixes: SharedPrefixes | None = None

    def arguments(self) -> tuple[Any, ...]:
        """As paged_attention takes them."""
        layout = AttentionLayout(self.query_starts, self.seq_lens_S, self.block_table_SW, self.prefixes)
        spec = AttentionSpec(self.scale, self.window, self.soft_cap, self.sinks_H, self.k_scale_G, self.v_scale_G)
        return self.q_THD, (self.k_cache, self.v_cache), layout, spec, self.lse_out_TH

    def alone(self, seq: int) -> "Attention":
        """One sequence without the others, and a table no wider than it needs."""
        start, stop = self.query_starts[seq : seq + 2].tolist()
        width = -(-int(self.seq_lens_S[seq]) // self.k_cache.shape[2])
        return replace(
            self,
            q_THD=self.q_THD[start:stop].clone(),  # all copies: Triton compiles anew for pointers into the middle
            query_starts=self.query_starts.new_tensor([0, stop - start]),
            seq_lens_S=self.seq_lens_S[seq : seq + 1].clone(),
            block_table_SW=self.block_table_SW[seq : seq + 1, :width].clone(memory_format=torch.contiguous_format),
            lse_out_TH=None,
            prefixes=None,
        )

    def expected(self) -> tuple[Tensor, Tensor]:
        """[T, H, D] and logarithms [T, H] in float64."""
        starts = self.query_starts.tolist()
        outs, lses = zip(*(self._dense(self.alone(seq)) for seq in range(len(starts) - 1)), strict=True)
        return torch.cat(outs), torch.cat(lses)

    @staticmethod
    def _dense(one: "Attention") -> tuple[Tensor, Tensor]:
        num_queries, num_heads, head_dim = one.q_THD.shape
        seq_len = int(one.seq_lens_S[0])
        group = num_heads // one.k_cache.shape[1]

        def gathered(cache: Tensor, scale_G: Tensor | None) -> Tensor:
            raw = cache.view(torch.uint8) if cache.dtype.itemsize == 1 else cache  # not all torches index float8
            blocks = raw[one.block_table_SW[0].long()].view(cache.dtype)
            dense = blocks.float().double().transpose(0, 1).flatten(1, 2)[:, :seq_len]
            dense = dense if scale_G is None else dense * scale_G[:, None, None]
            return dense.repeat_interleave(group, 0)

        keys, values = gathered(one.k_cache, one.k_scale_G), gathered(one.v_cache, one.v_scale_G)
        scores = one.q_THD.double().transpose(0, 1) @ keys.transpose(1, 2) * one.scale
        if one.soft_cap:
            scores = one.soft_cap * (scores / one.soft_cap).tanh()
        query = torch.arange(seq_len - num_queries, seq_len, device=scores.device)[:, None]
        key = torch.arange(seq_len, device=scores.device)[None, :]
        unseen = (key > query) | (key <= query - one.window) if one.window else key > query
        scores = scores.masked_fill(unseen, -torch.inf)
        lse = scores.logsumexp(-1)
        if one.sinks_H is not None:
            lse = lse.logaddexp(one.sinks_H.double()[:, None])
        return ((scores - lse[..., None]).exp() @ values).transpose(0, 1), lse.T


PLAIN = AttentionRules()


def make_attention(
    shape: AttentionShape, dtype: torch.dtype, device: torch.device, rules: AttentionRules = PLAIN
) -> Attention:
    """Random, in shuffled blocks with gaps. What is past a sequence's end in its last block is not a number."""
    lens, counts, head_dim, block_size = shape.lens, shape.counts, shape.head_dim, rules.block_size
    num_heads, num_kv_heads = shape.heads
    widths = [-(-length // block_size) for length in lens]
    order = torch.randperm(sum(widths), device=device).to(torch.int32)
    table = torch.full((len(lens), max(widths)), -1, dtype=torch.int32, device=device)
    sizes = (sum(widths), num_kv_heads, block_size, head_dim)
    cache_dtype = torch.float8_e4m3fn if rules.fp8 else dtype
    k_cache, v_cache = (torch.randn(sizes, device=device, dtype=dtype).to(cache_dtype) for _ in range(2))
    at = 0
    for seq, width in enumerate(widths):
        table[seq, :width] = order[at : at + width]
        at += width
        if unused := width * block_size - lens[seq]:
            last = int(table[seq, width - 1])
            k_cache[last, :, -unused:] = torch.nan
            v_cache[last, :, -unused:] = torch.nan
    num_shared = rules.shared // block_size
    table[:, :num_shared] = table[0, :num_shared].clone()
    starts = torch.tensor([0, *counts]).cumsum(0).to(device, torch.int32)
    q_THD = torch.randn((sum(counts), num_heads, head_dim), device=device, dtype=dtype)
    seq_lens = torch.tensor(lens, dtype=torch.int32, device=device)

    def floats(*sizes: int) -> Tensor:
        return torch.rand(sizes, device=device) + 0.5

    return Attention(
        q_THD,
        k_cache,
        v_cache,
        starts,
        seq_lens,
        table,
        head_dim**-0.5,
        rules.window,
        rules.soft_cap,
        floats(num_heads) if rules.sinks else None,
        floats(num_kv_heads) if rules.fp8 else None,
        floats(num_kv_heads) if rules.fp8 else None,
        floats(sum(counts), num_heads) if rules.logarithms else None,
        _one_group(seq_lens, rules.shared) if rules.shared and rules.grouped else None,
    )


def random_ints(
    num_out: int, num_in: int, group: int, device: torch.device, bits: int = 4, offsets: bool = True
) -> GroupQuantized:
    """A matrix with offsets as of zero points in the middle, and more; without, of integers around 0."""
    middle = 1 << bits - 1
    factors = torch.rand((num_out, num_in // group), device=device) * 0.16 / (1 << bits)
    least = 0 if bits == 4 and offsets else -middle
    ints = torch.randint(least, least + 2 * middle, (num_out, num_in), dtype=torch.int16, device=device).to(torch.int8)
    shifts = -(least + middle) * factors + torch.randn_like(factors) * 0.01 if offsets else None
    return GroupQuantized(ints, factors, shifts, least, bits)


def _one_group(seq_lens_S: Tensor, shared: int) -> SharedPrefixes:
    num_seqs = len(seq_lens_S)
    starts = torch.tensor([0, num_seqs], dtype=torch.int32, device=seq_lens_S.device)
    members = torch.arange(num_seqs, dtype=torch.int32, device=seq_lens_S.device)
    return SharedPrefixes(starts, members, torch.full_like(seq_lens_S, shared))
