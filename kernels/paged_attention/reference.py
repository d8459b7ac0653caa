"""Paged attention of this step's queries over the KV blocks of their sequences. The reference."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.paged_attention.prefixes import SharedPrefixes

__all__ = ["paged_attention"]


def paged_attention(
    q_THD: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    query_starts: Tensor,
    seq_lens_S: Tensor,
    block_table_SW: Tensor,
    scale: float,
    window: int = 0,
    soft_cap: float = 0.0,
    sinks_H: Tensor | None = None,
    k_scale_G: Tensor | None = None,
    v_scale_G: Tensor | None = None,
    lse_out_TH: Tensor | None = None,
    prefixes: SharedPrefixes | None = None,
) -> Tensor:
    """Causal attention over a ragged batch: whole prompts, chunks and single tokens alike.

    q_THD             [T, H, D]
    k_cache, v_cache  [N, G, P, D]   H is a multiple of G: heads [g * H/G, (g + 1) * H/G) read KV head g; of q's dtype,
                                     or torch.float8_e4m3fn
    query_starts      [S + 1] int32  rows [query_starts[s], query_starts[s + 1]) are sequence s; may be none
    seq_lens_S        [S] int32      keys of sequence s, this step's included; its queries are the last of them
    block_table_SW    [S, W] int32   blocks in order; entries past the sequence's last block are never read
    scale             factor on q @ k: what comes out is a score
    window            a query sees itself and the window - 1 keys before it; 0 is no limit
    soft_cap          scores become soft_cap * tanh(score / soft_cap); 0 leaves them
    sinks_H           [H] fp32       a score of each head that has no key: part of the softmax's denominator alone
    k_scale_G         [G] fp32       factor on the keys of a KV head, as write_kv has divided by it; None is 1
    v_scale_G         [G] fp32       the same for values
    lse_out_TH        [T, H] fp32    written where given: the natural logarithm of the denominator
    prefixes                         keys that may be read once for several sequences: changes nothing but rounding

    Returns [T, H, D] in q's dtype, computed in fp32. Rows that belong to no sequence are padding and come back as 0,
    with the logarithm -inf. A slot past seq_lens is never read, whatever it holds.
    """
    rules = _Rules(scale, window, soft_cap, sinks_H, k_scale_G, v_scale_G)
    out_THD = torch.zeros_like(q_THD)
    lse_TH = torch.full(q_THD.shape[:2], -torch.inf, device=q_THD.device)
    starts, lens = query_starts.tolist(), seq_lens_S.tolist()
    single = [s for s in range(len(lens)) if starts[s + 1] - starts[s] == 1]
    if len(single) > 1:
        rows = torch.tensor([starts[s] for s in single], device=q_THD.device)
        pick = torch.tensor(single, device=q_THD.device)
        longest = max(lens[s] for s in single)
        out_THD[rows], lse_TH[rows] = _single_tokens(
            q_THD[rows], k_cache, v_cache, seq_lens_S[pick], block_table_SW[pick], longest, rules
        )
    for s, seq_len in enumerate(lens):
        chunk = slice(starts[s], starts[s + 1])
        if chunk.stop - chunk.start > (1 if len(single) > 1 else 0):
            blocks = block_table_SW[s, : -(-seq_len // k_cache.shape[2])]
            out_THD[chunk], lse_TH[chunk] = _chunk(q_THD[chunk], k_cache, v_cache, blocks, seq_len, rules)
    if lse_out_TH is not None:
        lse_out_TH.copy_(lse_TH)
    return out_THD


@dataclass(frozen=True)
class _Rules:
    """How products of queries and keys become weights."""

    scale: float
    window: int
    soft_cap: float
    sinks_H: Tensor | None
    k_scale_G: Tensor | None
    v_scale_G: Tensor | None

    def unseen(self, key: Tensor, query: Tensor) -> Tensor:
        """Of positions."""
        return (key > query) | (key <= query - self.window) if self.window else key > query

    def weigh(self, products: Tensor, unseen: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [..., G, R, Q, L] and the logarithm of their denominator [..., G, R, Q], for R heads of a group."""
        scores = products * self.scale
        if self.soft_cap:
            scores = self.soft_cap * (scores / self.soft_cap).tanh()
        scores = scores.masked_fill(unseen, -torch.inf)
        if self.sinks_H is None:
            return scores.softmax(-1), scores.logsumexp(-1)
        *_, num_kv_heads, group, num_queries, num_keys = scores.shape
        sinks = self.sinks_H.float().view(num_kv_heads, group, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, sinks), -1)
        return scores.softmax(-1)[..., :num_keys], scores.logsumexp(-1)


def _chunk(
    q_THD: Tensor, k_cache: Tensor, v_cache: Tensor, blocks: Tensor, seq_len: int, rules: _Rules
) -> tuple[Tensor, Tensor]:
    num_queries, num_heads, head_dim = q_THD.shape
    num_kv_heads = k_cache.shape[1]
    k_GLD = _dense(k_cache, blocks, rules.k_scale_G)[:, :seq_len]
    v_GLD = _dense(v_cache, blocks, rules.v_scale_G)[:, :seq_len]
    q_GTD = q_THD.float().view(num_queries, num_kv_heads, -1, head_dim).permute(1, 2, 0, 3).flatten(1, 2)
    products = (q_GTD @ k_GLD.transpose(1, 2)).view(num_kv_heads, -1, num_queries, seq_len)
    query = torch.arange(seq_len - num_queries, seq_len, device=q_THD.device)[:, None]
    key = torch.arange(seq_len, device=q_THD.device)[None, :]
    weights, lse_GRT = rules.weigh(products, rules.unseen(key, query))
    out = (weights.flatten(1, 2) @ v_GLD).view(num_kv_heads, -1, num_queries, head_dim)
    return out.permute(2, 0, 1, 3).reshape(q_THD.shape).to(q_THD.dtype), lse_GRT.flatten(0, 1).T


def _single_tokens(
    q_SHD: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    seq_lens_S: Tensor,
    block_table_SW: Tensor,
    longest: int,
    rules: _Rules,
) -> tuple[Tensor, Tensor]:
    num_seqs, _, head_dim = q_SHD.shape
    _, num_kv_heads, block_size, _ = k_cache.shape
    width = -(-longest // block_size)
    blocks = block_table_SW[:, :width].clamp(min=0).long()
    key = torch.arange(width * block_size, device=q_SHD.device)[None, :]
    unseen_SL = rules.unseen(key, seq_lens_S.long()[:, None] - 1)
    k_SGLD = _dense(k_cache, blocks, rules.k_scale_G)
    v_SGLD = _dense(v_cache, blocks, rules.v_scale_G)
    v_SGLD = v_SGLD.masked_fill(unseen_SL[:, None, :, None], 0.0)  # 0 * NaN would poison the row
    q_SGRD = q_SHD.float().view(num_seqs, num_kv_heads, -1, head_dim)
    products = (q_SGRD @ k_SGLD.transpose(2, 3))[:, :, :, None]
    weights, lse_SGR1 = rules.weigh(products, unseen_SL[:, None, None, None])
    return (weights[:, :, :, 0] @ v_SGLD).reshape(q_SHD.shape).to(q_SHD.dtype), lse_SGR1.flatten(1)


def _dense(cache: Tensor, blocks: Tensor, scale_G: Tensor | None) -> Tensor:
    """[..., G, L, D] in fp32, of blocks [..., W] one after the other."""
    dense = cache[blocks].transpose(-4, -3).flatten(-3, -2).float()
    return dense if scale_G is None else dense * scale_G[:, None, None]
