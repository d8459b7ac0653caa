"""The indexer of DeepSeek sparse attention (DSA, DeepSeek-V3.2-Exp, 2025): small heads score all tokens that a query
may see, and it attends to the best of them alone. The reference.

A cached row is [what attention reads | the index key], so that both are found by the same block table.
"""

import torch
from torch import Tensor

from kernels.paged_attention.spec import AttentionLayout
from kernels.rotary.reference import rotary
from kernels.sparse_indexer.spec import IndexSpec

__all__ = ["choose_tokens", "index_rotary"]


def index_rotary(
    q_THD: Tensor, k_TD: Tensor, cache: Tensor, positions_T: Tensor, slots_T: Tensor, spec: IndexSpec
) -> None:
    """Rotates the index queries in place, and stores this step's index keys.

    q_THD        [T, H, D]      the first R dimensions are rotated, in place
    k_TD         [T, D]         index keys before their LayerNorm and rotation
    cache        [N, 1, P, X]   the last D dimensions of a row are written
    positions_T  [T] int64
    slots_T      [T] int64      block * P + offset; -1 means padding and writes nothing
    """
    dim, block_size = k_TD.shape[1], cache.shape[2]
    wide = k_TD.float()
    centered = wide - wide.mean(-1, keepdim=True)
    scaled = centered * torch.rsqrt(centered.square().mean(-1, keepdim=True) + spec.eps)
    normed_TD = (scaled * spec.norm_weight_D + spec.norm_bias_D).to(k_TD.dtype)
    rotated_TD = rotary(normed_TD[:, None], spec.cos_sin_CR, positions_T)[:, 0]
    real_T = slots_T >= 0
    slots_T = slots_T[real_T]
    cache[slots_T // block_size, 0, slots_T % block_size, -dim:] = rotated_TD[real_T]
    q_THD.copy_(rotary(q_THD, spec.cos_sin_CR, positions_T))


def choose_tokens(q_THD: Tensor, weight_TH: Tensor, cache: Tensor, layout: AttentionLayout, top_k: int) -> Tensor:
    """The positions that each row attends to: of those up to its own the `top_k` with the largest scores

    score(t, s) = sum over h of weight[t, h] * max(0, q[t, h] @ key[s])

    q_THD      [T, H, D]      rotated
    weight_TH  [T, H] fp32
    cache      [N, 1, P, X]   index keys are the last D dimensions of a row

    Returns [T, K] int32, K the least of `top_k` and the block table's tokens. A row's first min(K, position + 1) are
    its positions, ascending; of equal scores, which are chosen is not defined. Those behind, and padding's, are 0.
    """
    dim, block_size = q_THD.shape[2], cache.shape[2]
    width = layout.block_table_SW.shape[1] * block_size
    chosen_TK = torch.zeros((len(q_THD), min(top_k, width)), dtype=torch.int32, device=q_THD.device)
    starts, lens = layout.query_starts.tolist(), layout.seq_lens_S.tolist()
    for s, length in enumerate(lens):
        first, stop = starts[s], starts[s + 1]
        if first == stop:
            continue
        blocks = layout.block_table_SW[s, : -(-length // block_size)].long()
        keys_CD = cache[blocks, 0, :, -dim:].flatten(0, 1)[:length].float()
        scores_THC = torch.relu(q_THD[first:stop].float() @ keys_CD.T)
        scores_TC = (weight_TH[first:stop, None] @ scores_THC)[:, 0]
        for row in range(first, stop):
            seen = length - (stop - row) + 1
            best = scores_TC[row - first, :seen].topk(min(top_k, seen)).indices
            chosen_TK[row, : len(best)] = best.sort().values
    return chosen_TK
