"""Makes ragged batches over a poisoned KV cache, and attends to them the slow and plain way."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.paged_attention.prefixes import SharedPrefixes
from kernels.paged_attention.spec import AttentionLayout, AttentionSpec
from kernels.qkv_rotary.spec import QkvSpec

HEAD_DIM = 64
RULES = ("soft-cap", "sinks", "soft-cap and sinks")


def make_rules(which: str, num_heads: int, seed: int = 0) -> dict:
    """What paged_attention takes besides a window; strong enough to show."""
    rng = torch.Generator().manual_seed(seed)
    rules: dict = {"soft_cap": 1.5} if "soft-cap" in which else {}
    return rules | ({"sinks_H": torch.randn(num_heads, generator=rng) * 3} if "sinks" in which else {})


@dataclass
class Paged:
    """Sequences with dense keys and values, and the same in a cache whose unused slots hold NaN."""

    keys: list[Tensor]  # [L, G, D] each
    values: list[Tensor]
    k_cache: Tensor
    v_cache: Tensor
    block_table: Tensor
    seq_lens: Tensor
    query_starts: Tensor
    queries: Tensor
    scales: dict[str, Tensor]  # of keys and values in the cache, by paged_attention's names

    def attend(self, paged_attention, window: int = 0, **rules) -> Tensor:
        """A window less than 0 stands for chunks of that size. Blocks that no query sees are gone."""
        lse_out_TH, prefixes = rules.pop("lse_out_TH", None), rules.pop("prefixes", None)
        table, caches = self.without_unseen(window)
        layout = AttentionLayout(self.query_starts, self.seq_lens, table, prefixes)
        spec = AttentionSpec(HEAD_DIM**-0.5, max(0, window), chunk=max(0, -window), **self.scales, **rules)
        return paged_attention(self.queries, caches, layout, spec, lse_out_TH)

    def without_unseen(self, window: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The table without blocks that lie before all that a sequence's queries see, and the caches without what no
        sequence has: as where cache groups free their blocks.
        """
        if not window:
            return self.block_table, (self.k_cache, self.v_cache)
        table, block_size = self.block_table.clone(), self.k_cache.shape[2]
        for s, count in enumerate(self.query_starts.diff().tolist()):
            first = int(self.seq_lens[s]) - count  # position of its first query
            first = first // -window * -window if window < 0 else max(0, first + 1 - window)
            table[s, : first // block_size] = -1
        caches = self.k_cache.clone(), self.v_cache.clone()
        lost = sorted(set(range(len(self.k_cache))) - set(table.flatten().tolist()))
        for cache in caches:
            cache[lost] = torch.nan
        return table, caches

    def share(self, groups: list[tuple[list[int], int]]) -> SharedPrefixes:
        """Lets sequences begin with the same keys, as many as is said, in the blocks of a group's first; what they had
        there before is poisoned."""
        starts, members, shared_lens = [0], [], torch.zeros_like(self.seq_lens)
        for seqs, num_keys in groups:
            width = num_keys // self.k_cache.shape[2]
            for seq in seqs[1:]:
                lost = self.block_table[seq, :width].long()
                self.k_cache[lost] = self.v_cache[lost] = torch.nan
                self.block_table[seq, :width] = self.block_table[seqs[0], :width]
                self.keys[seq][:num_keys] = self.keys[seqs[0]][:num_keys]
                self.values[seq][:num_keys] = self.values[seqs[0]][:num_keys]
            members += seqs
            starts.append(len(members))
            shared_lens[seqs] = num_keys
        return SharedPrefixes(*(torch.tensor(x, dtype=torch.int32) for x in (starts, members)), shared_lens)

    def attend_and_log(self, paged_attention, window: int = 0, **rules) -> tuple[Tensor, Tensor]:
        lse_TH = torch.full(self.queries.shape[:2], torch.nan)
        return self.attend(paged_attention, window, **rules, lse_out_TH=lse_TH), lse_TH

    def logarithms(self, paged_attention, window: int = 0, **rules) -> Tensor:
        return self.attend_and_log(paged_attention, window, **rules)[1]

    def expected(self, window: int = 0, **rules) -> Tensor:
        return self.each_row(window, **rules)[0]

    def expected_logarithms(self, window: int = 0, **rules) -> Tensor:
        return self.each_row(window, **rules)[1]

    def each_row(self, window: int = 0, **rules) -> tuple[Tensor, Tensor]:
        rows = []
        for s, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            queries = self.queries[self.query_starts[s] : self.query_starts[s + 1]]
            for i, query in enumerate(queries):
                stop = len(keys) - len(queries) + i + 1
                start = (stop - 1) // -window * -window if window < 0 else max(0, stop - window) if window else 0
                rows.append(one_row(query, keys[start:stop], values[start:stop], **rules))
        outs, lses = zip(*rows, strict=True)
        return torch.stack(outs), torch.stack(lses)


def one_row(
    query_HD: Tensor, keys_LGD: Tensor, values_LGD: Tensor, soft_cap: float = 0.0, sinks_H: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One query's outputs [H, D] and the logarithms of its denominators [H], head by head."""
    heads, lses = [], []
    group = query_HD.shape[0] // keys_LGD.shape[1]
    for h, q in enumerate(query_HD.double()):
        scores = keys_LGD[:, h // group].double() @ q * HEAD_DIM**-0.5
        if soft_cap:
            scores = soft_cap * (scores / soft_cap).tanh()
        weights = scores.exp()
        denominator = weights.sum() + (0.0 if sinks_H is None else sinks_H[h].double().exp())
        heads.append(weights @ values_LGD[:, h // group].double() / denominator)
        lses.append(denominator.log())
    return torch.stack(heads), torch.stack(lses)


def written_by(qkv_rotary):
    """A write_kv out of the fused operation: no norm, no queries, no turn."""

    def write(k_TGD, v_TGD, cache, slots):
        qkv = torch.cat((k_TGD.flatten(1), v_TGD.flatten(1)), -1)
        unturned = torch.tensor([[1.0, 0.0]])
        qkv_rotary(qkv, cache, torch.zeros_like(slots), slots, QkvSpec(unturned))

    return write


def make(
    kernels_write, lens, counts, heads=(9, 3), block_size=16, dtype=torch.float32, seed=0, cache_dtype=None
) -> Paged:
    """Sequences of `lens` keys of which the last `counts` have queries, in shuffled blocks with gaps.

    With a cache in float8, each of its heads has scales, and the dense keys and values are what it holds.
    """
    rng = torch.Generator().manual_seed(seed)
    num_heads, num_kv_heads = heads
    widths = [-(-length // block_size) for length in lens]
    num_blocks = sum(widths) + 3
    free = torch.randperm(num_blocks, generator=rng).tolist()
    table = torch.full((len(lens), max([*widths, 1]) + 2), -1, dtype=torch.int32)
    k_cache = torch.full((num_blocks, num_kv_heads, block_size, HEAD_DIM), torch.nan, dtype=cache_dtype or dtype)
    v_cache = k_cache.clone()
    scales = {}
    if cache_dtype == torch.float8_e4m3fn:
        scales = {name: 2 ** torch.randn(num_kv_heads, generator=rng) for name in ("k_scale_G", "v_scale_G")}
    keys, values = [], []
    for s, length in enumerate(lens):
        for w in range(widths[s]):
            table[s, w] = free.pop()
        position = torch.arange(length)
        slots = table[s].long()[position // block_size] * block_size + position % block_size
        keys.append(torch.randn(length, num_kv_heads, HEAD_DIM, generator=rng).to(dtype))
        values.append(torch.randn(length, num_kv_heads, HEAD_DIM, generator=rng).to(dtype))
        kernels_write(keys[-1], values[-1], (k_cache, v_cache), slots, **scales)
        for dense, scale in zip((keys, values), scales.values(), strict=False):
            dense[-1] = (dense[-1] / scale[:, None]).to(cache_dtype).double() * scale[:, None]
    starts = torch.tensor([0, *counts], dtype=torch.int32).cumsum(0).to(torch.int32)
    queries = torch.randn(sum(counts), num_heads, HEAD_DIM, generator=rng).to(dtype)
    seq_lens = torch.tensor(lens, dtype=torch.int32)
    return Paged(keys, values, k_cache, v_cache, table, seq_lens, starts, queries, scales)
