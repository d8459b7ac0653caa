"""The attention layer: qkv projection, rotary embedding, paged attention over the KV cache, output projection."""

from dataclasses import replace

import torch
from torch import Tensor

from engine.checkpoint.arch import ModelArch
from engine.checkpoint.weights import Weights
from engine.model.forward_batch import ForwardBatch
from engine.model.kv_scales import take_kv_scale
from engine.model.linears import Linears
from engine.model.norms import HeadShards, QkNorms
from engine.model.rotary_tables import RotaryTables
from engine.parallel.tensor_parallel import TensorParallel
from kernels.kernel_set import KernelSet
from kernels.paged_attention.spec import AttentionSpec
from kernels.qkv_rotary.spec import QkvSpec

__all__ = ["Attention"]


class Attention:
    def __init__(
        self,
        arch: ModelArch,
        weights: Weights,
        kernels: KernelSet,
        tables: RotaryTables,
        index: int,
        tp: TensorParallel,
    ) -> None:
        self._kernels = kernels
        self._tp = tp
        at = f"model.layers.{index}"
        linears = Linears(weights, kernels, at, tp)
        dim, head_dim = arch.model_dim, arch.head_dim
        q_dim, kv_dim = arch.num_heads * head_dim, arch.num_kv_heads * head_dim
        rows = HeadShards(tp.rows(arch.num_heads, head_dim), tp.kv_rows(arch.num_kv_heads, head_dim))
        self._qkv = linears.column_parallel(
            {
                "self_attn.q_proj": (q_dim, rows.q),
                "self_attn.k_proj": (kv_dim, rows.kv),
                "self_attn.v_proj": (kv_dim, rows.kv),
            },
            dim,
            arch.qkv_bias,
        )
        self._norms = QkNorms(arch, weights, kernels, at, rows, tp)
        k_scale_G, v_scale_G = (take_kv_scale(weights, index, which, arch, tp) for which in "kv")
        sinks_H = None
        if arch.sinks:
            heads = tp.rows(arch.num_heads)
            sinks_H = weights.take(f"{at}.self_attn.sinks", arch.num_heads, dtype=torch.float32, part=heads)
        # a window that no sequence outgrows is none, so that cascade attention works
        window = arch.sliding_windows[index] if arch.sliding_windows[index] < arch.max_model_len else 0
        scale = head_dim**-0.5 if arch.attention_scale is None else arch.attention_scale
        spec = AttentionSpec(scale, window, arch.attention_cap, sinks_H)
        qkv_spec = QkvSpec(tables.of_layer(index), self._norms.q_norm, self._norms.k_norm, arch.norm_eps)
        # scales of an FP8 cache; a cache of another dtype needs none
        self._specs = {
            True: (
                replace(spec, k_scale_G=k_scale_G, v_scale_G=v_scale_G),
                replace(qkv_spec, k_scale_G=k_scale_G, v_scale_G=v_scale_G),
            ),
            False: (spec, qkv_spec),
        }
        q_columns = tp.columns(arch.num_heads, head_dim)
        self._out = linears.row_parallel("self_attn.o_proj", dim, q_dim, q_columns, arch.out_bias)

    def __call__(self, x_TM: Tensor, batch: ForwardBatch, cache: tuple[Tensor, Tensor]) -> Tensor:
        """[T, M], added up over ranks. Writes the batch's keys and values to the cache."""
        spec, qkv_spec = self._specs[cache[0].dtype == torch.float8_e4m3fn]
        qkv_TX = self._qkv(x_TM)
        squares_T2 = self._norms.squares(qkv_TX)
        q_THD = self._kernels.qkv_rotary(qkv_TX, cache, batch.positions_T, batch.slots_T, qkv_spec, squares_T2)
        out_THD = self._kernels.paged_attention(q_THD, cache, batch.layout, spec)
        return self._tp.all_reduce(self._out(out_THD.flatten(1)))
