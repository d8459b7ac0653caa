"""Paged attention of this step's queries over the KV blocks of their sequences. The reference."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.paged_attention.spec import AttentionLayout, AttentionSpec

__all__ = ["paged_attention"]


def paged_attention(
    q_THD: Tensor,
    cache: tuple[Tensor, Tensor],
    layout: AttentionLayout,
    spec: AttentionSpec,
    lse_out_TH: Tensor | None = None,
) -> Tensor:
    """Causal attention over a ragged batch: whole prompts, chunks and single tokens alike.

    q_THD             [T, H, D]
    cache             [N, G, P, D] keys, and values; H is a multiple of G: heads [g * H/G, (g + 1) * H/G) read KV head
                      g; of q's dtype, or torch.float8_e4m3fn; values may have other dimensions
    layout            which rows and blocks are whose
    spec              scale, window or chunk, soft cap, sinks, scales of an FP8 cache
    lse_out_TH        [T, H] fp32    written where given: the natural logarithm of the denominator

    Returns [T, H, D] in q's dtype, computed in fp32. Rows that belong to no sequence are padding and come back as 0,
    with the logarithm -inf. A slot past seq_lens is never read, whatever it holds, nor one before all that the queries
    of a sequence see.
    """
    k_cache, v_cache = cache
    query_starts, seq_lens_S, block_table_SW = layout.query_starts, layout.seq_lens_S, layout.block_table_SW
    rules = _Rules(spec)
    out_THD = q_THD.new_zeros((*q_THD.shape[:2], v_cache.shape[3]))
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

    spec: AttentionSpec

    def unseen(self, key: Tensor, query: Tensor) -> Tensor:
        """Of positions."""
        window, chunk = self.spec.window, self.spec.chunk
        if chunk:
            return (key > query) | (key < query // chunk * chunk)
        return (key > query) | (key <= query - window) if window else key > query

    def weigh(self, products: Tensor, unseen: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [..., G, R, Q, L] and the logarithm of their denominator [..., G, R, Q], for R heads of a group."""
        scores = products * self.spec.scale
        if self.spec.soft_cap:
            scores = self.spec.soft_cap * (scores / self.spec.soft_cap).tanh()
        scores = scores.masked_fill(unseen, -torch.inf)
        if self.spec.sinks_H is None:
            return scores.softmax(-1), scores.logsumexp(-1)
        *_, num_kv_heads, group, num_queries, num_keys = scores.shape
        sinks = self.spec.sinks_H.float().view(num_kv_heads, group, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, sinks), -1)
        return scores.softmax(-1)[..., :num_keys], scores.logsumexp(-1)


def _chunk(
    q_THD: Tensor, k_cache: Tensor, v_cache: Tensor, blocks: Tensor, seq_len: int, rules: _Rules
) -> tuple[Tensor, Tensor]:
    num_queries, num_heads, head_dim = q_THD.shape
    num_kv_heads = k_cache.shape[1]
    blocks = blocks.clamp(min=0)
    k_GLD = _dense(k_cache, blocks, rules.spec.k_scale_G)[:, :seq_len]
    v_GLD = _dense(v_cache, blocks, rules.spec.v_scale_G)[:, :seq_len]
    q_GTD = q_THD.float().view(num_queries, num_kv_heads, -1, head_dim).permute(1, 2, 0, 3).flatten(1, 2)
    products = (q_GTD @ k_GLD.transpose(1, 2)).view(num_kv_heads, -1, num_queries, seq_len)
    query = torch.arange(seq_len - num_queries, seq_len, device=q_THD.device)[:, None]
    key = torch.arange(seq_len, device=q_THD.device)[None, :]
    unseen_TL = rules.unseen(key, query)
    weights, lse_GRT = rules.weigh(products, unseen_TL)
    v_GLD = v_GLD.masked_fill(unseen_TL.all(0)[:, None], 0.0)  # 0 * NaN would poison all rows
    out = (weights.flatten(1, 2) @ v_GLD).view(num_kv_heads, -1, num_queries, v_cache.shape[3])
    return out.permute(2, 0, 1, 3).flatten(1, 2).to(q_THD.dtype), lse_GRT.flatten(0, 1).T


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
    k_SGLD = _dense(k_cache, blocks, rules.spec.k_scale_G)
    v_SGLD = _dense(v_cache, blocks, rules.spec.v_scale_G)
    v_SGLD = v_SGLD.masked_fill(unseen_SL[:, None, :, None], 0.0)  # 0 * NaN would poison the row
    q_SGRD = q_SHD.float().view(num_seqs, num_kv_heads, -1, head_dim)
    products = (q_SGRD @ k_SGLD.transpose(2, 3))[:, :, :, None]
    weights, lse_SGR1 = rules.weigh(products, unseen_SL[:, None, None, None])
    return (weights[:, :, :, 0] @ v_SGLD).flatten(1, 2).to(q_SHD.dtype), lse_SGR1.flatten(1)


def _dense(cache: Tensor, blocks: Tensor, scale_G: Tensor | None) -> Tensor:
    """[..., G, L, D] in fp32, of blocks [..., W] one after the other."""
    dense = cache[blocks].transpose(-4, -3).flatten(-3, -2).float()
    return dense if scale_G is None else dense * scale_G[:, None, None]
