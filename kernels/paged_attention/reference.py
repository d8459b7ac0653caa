"""Attention of this step's queries over the KV blocks of their sequences."""

import torch
from torch import Tensor

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
) -> Tensor:
    """Causal attention over a ragged batch: whole prompts, chunks and single tokens alike.

    q_THD             [T, H, D]
    k_cache, v_cache  [N, G, P, D]   H is a multiple of G: heads [g * H/G, (g + 1) * H/G) read KV head g
    query_starts      [S + 1] int32  rows [query_starts[s], query_starts[s + 1]) are sequence s; may be none
    seq_lens_S        [S] int32      keys of sequence s, this step's included; its queries are the last of them
    block_table_SW    [S, W] int32   blocks in order; entries past the sequence's last block are never read
    scale             factor on q @ k
    window            a query sees itself and the window - 1 keys before it; 0 is no limit

    Returns [T, H, D] in q's dtype, computed in fp32. Rows that belong to no sequence are padding and come back as 0.
    A slot past seq_lens is never read, whatever it holds.
    """
    out_THD = torch.zeros_like(q_THD)
    starts, lens = query_starts.tolist(), seq_lens_S.tolist()
    single = [s for s in range(len(lens)) if starts[s + 1] - starts[s] == 1]
    if len(single) > 1:
        rows = torch.tensor([starts[s] for s in single], device=q_THD.device)
        pick = torch.tensor(single, device=q_THD.device)
        longest = max(lens[s] for s in single)
        out_THD[rows] = _single_tokens(
            q_THD[rows], k_cache, v_cache, seq_lens_S[pick], block_table_SW[pick], longest, scale, window
        )
    for s, seq_len in enumerate(lens):
        start, stop = starts[s], starts[s + 1]
        if stop - start > (1 if len(single) > 1 else 0):
            blocks = block_table_SW[s, : -(-seq_len // k_cache.shape[2])]
            out_THD[start:stop] = _chunk(q_THD[start:stop], k_cache, v_cache, blocks, seq_len, scale, window)
    return out_THD


def _chunk(
    q_THD: Tensor, k_cache: Tensor, v_cache: Tensor, blocks: Tensor, seq_len: int, scale: float, window: int
) -> Tensor:
    num_queries, num_heads, head_dim = q_THD.shape
    num_kv_heads = k_cache.shape[1]
    k_GLD = k_cache[blocks].transpose(0, 1).flatten(1, 2)[:, :seq_len].float()
    v_GLD = v_cache[blocks].transpose(0, 1).flatten(1, 2)[:, :seq_len].float()
    q_GTD = q_THD.float().view(num_queries, num_kv_heads, -1, head_dim).permute(1, 2, 0, 3).flatten(1, 2)
    scores = (q_GTD @ k_GLD.transpose(1, 2) * scale).view(num_kv_heads, -1, num_queries, seq_len)
    query = torch.arange(seq_len - num_queries, seq_len, device=q_THD.device)[:, None]
    key = torch.arange(seq_len, device=q_THD.device)[None, :]
    unseen = (key > query) | (key <= query - window) if window else key > query
    weights = scores.masked_fill_(unseen, -torch.inf).softmax(-1)
    out = weights.flatten(1, 2) @ v_GLD
    return out.view(num_kv_heads, -1, num_queries, head_dim).permute(2, 0, 1, 3).reshape(q_THD.shape).to(q_THD.dtype)


def _single_tokens(
    q_SHD: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    seq_lens_S: Tensor,
    block_table_SW: Tensor,
    longest: int,
    scale: float,
    window: int,
) -> Tensor:
    num_seqs, _, head_dim = q_SHD.shape
    _, num_kv_heads, block_size, _ = k_cache.shape
    width = -(-longest // block_size)
    blocks = block_table_SW[:, :width].clamp(min=0).long()
    key = torch.arange(width * block_size, device=q_SHD.device)[None, :]
    last = seq_lens_S.long()[:, None] - 1
    unseen_SL = (key > last) | (key <= last - window) if window else key > last
    k_SGLD = k_cache[blocks].transpose(1, 2).flatten(2, 3).float()
    v_SGLD = v_cache[blocks].transpose(1, 2).flatten(2, 3).float()
    v_SGLD = v_SGLD.masked_fill(unseen_SL[:, None, :, None], 0.0)  # 0 * NaN would poison the row
    q_SGRD = q_SHD.float().view(num_seqs, num_kv_heads, -1, head_dim)
    scores = (q_SGRD @ k_SGLD.transpose(2, 3) * scale).masked_fill(unseen_SL[:, None, None, :], -torch.inf)
    return (scores.softmax(-1) @ v_SGLD).reshape(q_SHD.shape).to(q_SHD.dtype)
