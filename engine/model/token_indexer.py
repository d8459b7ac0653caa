"""The indexer of sparse attention (DSA, DeepSeek-V3.2-Exp, 2025): small heads choose the tokens that are attended to.

Attention then reads these alone, as a sequence of so many tokens in blocks of one.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from engine.arch.mixer_spec import TokenIndexer as Spec
from engine.model.forward_batch import LayerBatch
from engine.model.layer_weights import LayerWeights
from kernels.paged_attention.spec import AttentionLayout
from kernels.sparse_indexer.spec import IndexSpec

__all__ = ["TokenIndexer", "attended"]

EPS = 1e-6


class TokenIndexer:
    """`chosen_TK` is the choice of the last step, for layers that have none of their own."""

    def __init__(self, spec: Spec, layer: LayerWeights, cos_sin_CR: Tensor, q_rank: int) -> None:
        """Every rank has all of it: they choose the same tokens."""
        dim, whole = spec.head_dim, layer.tp.whole_rows
        at, num_rows = "self_attn.indexer", spec.num_heads * dim
        self._spec, self._kernels = spec, layer.kernels
        self._queries = layer.linears.column_parallel({f"{at}.wq_b": (num_rows, whole(num_rows))}, q_rank, False)
        self._keys = layer.linears.column_parallel({f"{at}.wk": (dim, whole(dim))}, layer.arch.model_dim, False)
        weight = layer.take(f"{at}.weights_proj.weight", spec.num_heads, layer.arch.model_dim)
        self._weights = layer.kernels.linear(weight, None, torch.float32)
        norm_D, bias_D = (layer.take(f"{at}.k_norm.{name}", dim, dtype=torch.float32) for name in ("weight", "bias"))
        self._rules = IndexSpec(cos_sin_CR, norm_D, bias_D, EPS, spec.top_k)
        self.chosen_TK: Tensor | None = None

    def __call__(self, x_TM: Tensor, q_TR: Tensor, batch: LayerBatch, rows: Tensor) -> Tensor:
        """The positions that each token attends to, [T, K] as kernels/sparse_indexer. Writes the batch's index keys.

        x_TM  what the layer's attention takes
        q_TR  its low-rank query, after the norm
        rows  [N, 1, P, X], the layer's cache
        """
        spec = self._spec
        q_THD = self._queries(q_TR).view(len(q_TR), spec.num_heads, spec.head_dim)
        self._kernels.index_rotary(q_THD, self._keys(x_TM), rows, batch.positions_T, batch.slots_T, self._rules)
        self.chosen_TK = self._kernels.choose_tokens(q_THD, self._weights(x_TM), rows, batch.layout, spec.top_k)
        return self.chosen_TK


class Attended(NamedTuple):
    rows: Tensor  # [N * P, 1, 1, X]: the cache in blocks of one token
    layout: AttentionLayout  # each row of the batch is a sequence of the tokens that it attends to


def attended(chosen_TK: Tensor, batch: LayerBatch, rows: Tensor) -> Attended:
    """What attention takes in place of a layer's cache and layout. Padding attends to nothing."""
    (num_tokens, num_chosen), block_size = chosen_TK.shape, rows.shape[2]
    ends_S, index_T = batch.layout.query_starts[1:], torch.arange(num_tokens + 1, device=chosen_TK.device).int()
    owner_T = torch.searchsorted(ends_S, index_T[:-1], right=True).clamp(max=len(ends_S) - 1)
    chosen = chosen_TK.long()
    blocks_TK = batch.layout.block_table_SW[owner_T[:, None], chosen // block_size]
    slots_TK = blocks_TK * block_size + (chosen % block_size).int()
    lens_T = torch.where(batch.slots_T < 0, 0, (batch.positions_T + 1).clamp(max=num_chosen)).int()
    return Attended(rows.view(-1, 1, 1, rows.shape[3]), AttentionLayout(index_T, lens_T, slots_TK.contiguous()))
