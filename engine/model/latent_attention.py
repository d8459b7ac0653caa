"""Multi-head latent attention (MLA, DeepSeek-V2, arXiv 2405.04434), in its absorbed form for prompts and answers alike.

One row per token is cached for all heads: the latent, and a key with rotary embedding. Each head's projection of the
latent to keys is applied to its query instead, and that to values to its output. The form is the same for all numbers
of tokens, so that a token's bits do not depend on its chunk.
"""

import torch
from torch import Tensor

from engine.arch.mixer_spec import LatentAttention as Spec
from engine.model.forward_batch import LayerBatch
from engine.model.layer_weights import LayerWeights
from engine.model.query_scaling import scale_queries, scaling_table
from engine.model.token_indexer import TokenIndexer, attended
from kernels.latent_attention.spec import LatentSpec
from kernels.latent_rotary.spec import LatentRotarySpec
from kernels.rms_norm.reference import rms_norm

__all__ = ["LatentAttention"]


class LatentAttention:
    def __init__(
        self, spec: Spec, layer: LayerWeights, cos_sin_CR: Tensor, index_source: "LatentAttention | None" = None
    ) -> None:
        """`cos_sin_CR` as kernels/rotary takes it, of a layer with RoPE.

        `index_source`: the layer whose indexer chooses the tokens; None: this one's, where it has one.
        """
        tp, dim = layer.tp, layer.arch.model_dim
        self._spec, self._kernels, self._tp = spec, layer.kernels, tp
        latent_dim, q_head_dim = spec.kv_rank + spec.rope_dim, spec.nope_dim + spec.rope_dim
        q_rows = tp.rows(spec.num_heads, q_head_dim)
        whole = tp.whole_rows
        downs = {"self_attn.kv_a_proj_with_mqa": (latent_dim, whole(latent_dim))}
        self._q_norm_M: Tensor | None = None
        if spec.q_rank:
            downs = {"self_attn.q_a_proj": (spec.q_rank, whole(spec.q_rank)), **downs}
            self._q_norm_M = layer.take_norm("self_attn.q_a_layernorm", spec.q_rank)
        up, up_in = ("self_attn.q_b_proj", spec.q_rank) if spec.q_rank else ("self_attn.q_proj", dim)
        self._down = layer.linears.column_parallel(downs, dim, spec.bias)
        self._up = layer.linears.column_parallel({up: (spec.num_heads * q_head_dim, q_rows)}, up_in, False)
        self._is_rotated = spec.rope is not None
        if not self._is_rotated:  # one row for all positions: cosines are 1, sines are 0
            cos_sin_CR = (torch.arange(spec.rope_dim, device=layer.weights.device) < spec.rope_dim // 2).float()[None]
        norm_L = layer.take_norm("self_attn.kv_a_layernorm", spec.kv_rank) * spec.latent_scale
        self._q_eps = spec.latent_eps
        self._rotary = LatentRotarySpec(cos_sin_CR, norm_L, spec.latent_eps)
        kv_dim = spec.nope_dim + spec.v_dim
        kv_b = layer.take(
            "self_attn.kv_b_proj.weight",
            spec.num_heads * kv_dim,
            spec.kv_rank,
            part=tp.rows(spec.num_heads, kv_dim),
        )
        key_HNL, value_HVL = torch.split(kv_b.view(-1, kv_dim, spec.kv_rank), [spec.nope_dim, spec.v_dim], 1)
        self._absorb_key = layer.kernels.head_linear(key_HNL.transpose(1, 2))
        self._absorb_value = layer.kernels.head_linear(value_HVL)
        scale = q_head_dim**-0.5 if spec.scale is None else spec.scale
        self._rules = LatentSpec(scale, spec.kv_rank)
        self._query_scaling = None
        if spec.query_scaling is not None:
            self._query_scaling = scaling_table(spec.query_scaling, len(cos_sin_CR), layer.weights.device)
        self._gate = None
        if spec.gate is not None:
            gated = {"self_attn.g_proj": (spec.num_heads, tp.rows(spec.num_heads))}
            self._gate = layer.linears.column_parallel(gated, dim, False)
        columns = tp.columns(spec.num_heads, spec.v_dim)
        self.indexer: TokenIndexer | None = None if index_source is None else index_source.indexer
        self._chooses = spec.index_from is None
        if spec.indexer is not None and self._chooses:
            indexer = TokenIndexer(spec.indexer, layer, cos_sin_CR, spec.q_rank)
            self.indexer = indexer if len(cos_sin_CR) > spec.indexer.top_k else None  # else it chooses all tokens
        self._out = layer.linears.row_parallel("self_attn.o_proj", dim, spec.num_heads * spec.v_dim, columns, spec.bias)

    def __call__(self, x_TM: Tensor, batch: LayerBatch, cache: tuple[Tensor, ...]) -> Tensor:
        """[T, M], added up over ranks. Writes the batch's rows to the cache."""
        spec = self._spec
        (latents,) = cache
        down_TX = self._down(x_TM)
        q_TM, kv_TX = down_TX[:, : spec.q_rank], down_TX[:, spec.q_rank :]
        q_TM = x_TM if self._q_norm_M is None else rms_norm(q_TM, self._q_norm_M, self._q_eps)
        q_TX = self._up(q_TM)
        if self._query_scaling is not None:
            scale_queries(q_TX, batch.positions_T, self._query_scaling)
        q_THD = q_TX.view(len(q_TX), -1, spec.nope_dim + spec.rope_dim)
        absorbed_THL = self._absorb_key(q_THD[..., : spec.nope_dim])
        q_THX = torch.cat((absorbed_THL, q_THD[..., spec.nope_dim :]), -1)
        positions_T = batch.positions_T if self._is_rotated else torch.zeros_like(batch.positions_T)
        self._kernels.latent_rotary(q_THX, kv_TX, latents, positions_T, batch.slots_T, self._rotary)
        layout = batch.layout
        if self.indexer is not None:
            chosen_TK = self.indexer(x_TM, q_TM, batch, latents) if self._chooses else self.indexer.chosen_TK
            assert chosen_TK is not None, "the layer that chooses comes before"
            latents, layout = attended(chosen_TK, batch, latents)
        out_THL = self._kernels.latent_attention(q_THX, latents, layout, self._rules)
        out_THD = self._gated(x_TM, self._absorb_value(out_THL))
        return self._tp.all_reduce(self._out(out_THD.flatten(1)))

    def _gated(self, x_TM: Tensor, out_THD: Tensor) -> Tensor:
        if self._gate is None or self._spec.gate is None:
            return out_THD
        gate_TH = self._kernels.unary(self._gate(x_TM), self._spec.gate.function)
        return (out_THD * gate_TH[..., None]).to(out_THD.dtype)
