"""The attention layer: qkv projection, rotary embedding, paged attention over the KV cache, output projection."""

from dataclasses import replace

import torch
from torch import Tensor

from engine.arch.mixer_spec import SelfAttention
from engine.model.forward_batch import LayerBatch
from engine.model.kv_scales import take_kv_scale
from engine.model.layer_weights import LayerWeights
from engine.model.norms import HeadShards, QkNorms
from engine.model.query_scaling import scale_queries, scaling_table
from kernels.paged_attention.spec import AttentionSpec
from kernels.qkv_rotary.spec import QkvSpec
from kernels.rms_norm.reference import rms_norm

__all__ = ["Attention"]


class Attention:
    def __init__(
        self, spec: SelfAttention, layer: LayerWeights, cos_sin_CR: Tensor, kv_source: "Attention | None" = None
    ) -> None:
        """`cos_sin_CR` as kernels/rotary takes it. `kv_source`: whose keys and values are read; None: its own."""
        tp, dim, head_dim = layer.tp, layer.arch.model_dim, spec.head_dim
        self._kernels, self._tp, self._eps = layer.kernels, tp, layer.arch.norm_eps
        q_dim, kv_dim = spec.num_heads * head_dim, spec.num_kv_heads * head_dim
        rows = HeadShards(tp.rows(spec.num_heads, head_dim), tp.kv_rows(spec.num_kv_heads, head_dim))
        self._spec = spec
        parts = {"self_attn.q_proj": (q_dim, rows.q)}
        if kv_source is None:
            parts["self_attn.k_proj"] = kv_dim, rows.kv
        self._v_dim = spec.v_dim or head_dim
        if kv_source is None and not spec.values_are_keys:
            v_rows = tp.kv_rows(spec.num_kv_heads, self._v_dim)
            parts["self_attn.v_proj"] = spec.num_kv_heads * self._v_dim, v_rows
        self._qkv = layer.linears.column_parallel(parts, dim, spec.qkv_bias)
        self._norms = QkNorms(spec, layer, rows)
        self._kv_scales: tuple[Tensor | None, Tensor | None] = (
            (take_kv_scale(layer, "k", spec.num_kv_heads), take_kv_scale(layer, "v", spec.num_kv_heads))
            if kv_source is None
            else kv_source._kv_scales
        )
        k_scale_G, v_scale_G = self._kv_scales
        sinks_H = None
        if spec.sinks:
            heads = tp.rows(spec.num_heads)
            sinks_H = layer.take("self_attn.sinks", spec.num_heads, dtype=torch.float32, part=heads)
        # a window that no sequence outgrows is none, so that cascade attention works
        window, chunk = (
            size if size < layer.arch.max_model_len else 0 for size in (spec.sliding_window, spec.attention_chunk)
        )
        scale = head_dim**-0.5 if spec.scale is None else spec.scale
        rules = AttentionSpec(scale, window, spec.soft_cap, sinks_H, chunk=chunk)
        qkv_rules = QkvSpec(cos_sin_CR, self._norms.q_norm, self._norms.k_norm, layer.arch.norm_eps)
        self._reads_only = kv_source is not None
        # scales of an FP8 cache; a cache of another dtype needs none, nor what writes none
        written = (None, None) if self._reads_only else self._kv_scales
        self._rules = {
            True: (
                replace(rules, k_scale_G=k_scale_G, v_scale_G=v_scale_G),
                replace(qkv_rules, k_scale_G=written[0], v_scale_G=written[1]),
            ),
            False: (rules, qkv_rules),
        }
        self._q_width, self._k_width = rows.q.stop - rows.q.start, rows.kv.stop - rows.kv.start
        self._one_D = torch.ones(head_dim, device=layer.weights.device)
        self._gate = None
        if spec.gate is not None:
            gated = (spec.num_heads, tp.rows(spec.num_heads)) if spec.gate.per_head else (q_dim, rows.q)
            self._gate = layer.linears.column_parallel({"self_attn.gate_proj": gated}, dim, spec.qkv_bias)
        self._query_scaling = None
        if spec.query_scaling is not None:
            self._query_scaling = scaling_table(spec.query_scaling, len(cos_sin_CR), layer.weights.device)
        out_dim, columns = spec.num_heads * self._v_dim, tp.columns(spec.num_heads, self._v_dim)
        self._out = layer.linears.row_parallel("self_attn.o_proj", dim, out_dim, columns, spec.out_bias)

    def __call__(self, x_TM: Tensor, batch: LayerBatch, cache: tuple[Tensor, ...]) -> Tensor:
        """[T, M], added up over ranks. Writes the batch's keys and values to the cache."""
        k_cache, v_cache = cache
        rules, qkv_rules = self._rules[k_cache.dtype == torch.float8_e4m3fn]
        qkv_TX = self._qkv(x_TM)
        if clip := self._spec.qkv_clip:
            qkv_TX = qkv_TX.clamp(-clip, clip)
        if self._spec.values_are_keys and not self._reads_only:
            qkv_TX = torch.cat((qkv_TX, qkv_TX[:, self._q_width :]), 1)
        if self._v_dim < self._spec.head_dim:
            qkv_TX = self._with_wide_values(qkv_TX)
        squares_T2 = self._norms.squares(qkv_TX)
        if self._query_scaling is not None:
            scale_queries(qkv_TX[:, : self._q_width], batch.positions_T, self._query_scaling)
        written = (k_cache, v_cache)
        if self._reads_only:
            written = k_cache[:, :0], v_cache[:, :0]  # of no heads
        elif self._spec.v_norm:
            self._norm_values(qkv_TX)
        q_THD = self._kernels.qkv_rotary(qkv_TX, written, batch.positions_T, batch.slots_T, qkv_rules, squares_T2)
        if self._norms.rotated_q_D is not None:
            q_THD = q_THD * self._norms.rotated_q_D
        out_THD = self._kernels.paged_attention(q_THD, (k_cache, v_cache), batch.layout, rules)
        out_TX = self._gated(x_TM, out_THD)[..., : self._v_dim].flatten(1)
        return self._tp.all_reduce(self._out(out_TX))

    def _gated(self, x_TM: Tensor, out_THD: Tensor) -> Tensor:
        if self._gate is None or self._spec.gate is None:
            return out_THD
        gate_TX = self._kernels.unary(self._gate(x_TM), self._spec.gate.function)
        return (out_THD * gate_TX.view(*out_THD.shape[:2], -1)).to(out_THD.dtype)

    def _with_wide_values(self, qkv_TX: Tensor) -> Tensor:
        """Value heads get zeros at their ends, up to the size of key heads: kernels and the cache know one size."""
        keys_end = self._q_width + self._k_width
        v_TGD = qkv_TX[:, keys_end:].view(len(qkv_TX), self._k_width // self._spec.head_dim, self._v_dim)
        v_TGD = torch.nn.functional.pad(v_TGD, (0, self._spec.head_dim - self._v_dim))
        return torch.cat((qkv_TX[:, :keys_end], v_TGD.flatten(1)), 1)

    def _norm_values(self, qkv_TX: Tensor) -> None:
        """In place."""
        head_dim = self._spec.head_dim
        first = (qkv_TX.shape[1] + self._q_width) // 2  # the query heads are before as many key as value heads
        values_TGD = qkv_TX[:, first:].view(len(qkv_TX), -1, head_dim)
        values_TGD.copy_(rms_norm(values_TGD, self._one_D, self._eps))
