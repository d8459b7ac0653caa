"""The attention layer: qkv projection, rotary embedding, paged attention over the KV cache, output projection."""

import torch
from torch import Tensor

from engine.checkpoint.arch import ModelArch
from engine.checkpoint.weights import Weights
from engine.model.forward_batch import ForwardBatch
from engine.model.kv_scales import take_kv_scale
from engine.model.linears import Linears
from engine.model.norms import QkNorms
from engine.model.rotary_tables import RotaryTables
from engine.parallel.tensor_parallel import TensorParallel
from kernels.kernel_set import KernelSet

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
        self._arch = arch
        self._kernels = kernels
        self._tp = tp
        # one that no sequence outgrows is none: kernels need not look, and prefixes can be read for many at once
        self._window = arch.windows[index] if arch.windows[index] < arch.max_model_len else 0
        self._scale = arch.head_dim**-0.5 if arch.attention_scale is None else arch.attention_scale
        self._cos_sin_CR = tables.of_layer(index)
        at = f"model.layers.{index}"
        linears = Linears(weights, kernels, at, tp)
        dim, head_dim = arch.model_dim, arch.head_dim
        q_dim, kv_dim = arch.num_heads * head_dim, arch.num_kv_heads * head_dim
        q_rows, kv_rows = tp.rows(arch.num_heads, head_dim), tp.kv_rows(arch.num_kv_heads, head_dim)
        self._qkv = linears.cut_by_outputs(
            {
                "self_attn.q_proj": (q_dim, q_rows),
                "self_attn.k_proj": (kv_dim, kv_rows),
                "self_attn.v_proj": (kv_dim, kv_rows),
            },
            dim,
            arch.qkv_bias,
        )
        self._norms = QkNorms(arch, weights, kernels, at, q_rows, kv_rows, tp)
        self._kv_scales = tuple(take_kv_scale(weights, index, which, arch, tp) for which in "kv")
        self._sinks_H = None
        if arch.sinks:
            heads = tp.rows(arch.num_heads)
            self._sinks_H = weights.take(f"{at}.self_attn.sinks", arch.num_heads, dtype=torch.float32, part=heads)
        q_columns = tp.columns(arch.num_heads, head_dim)
        self._out = linears.cut_by_inputs("self_attn.o_proj", dim, q_dim, q_columns, arch.out_bias)

    def __call__(self, x_TM: Tensor, batch: ForwardBatch, cache: tuple[Tensor, Tensor]) -> Tensor:
        """[T, M], added up over ranks. Writes the batch's keys and values to the cache."""
        # other dtypes than float8 have room for all numbers that there are
        k_scale_G, v_scale_G = self._kv_scales if cache[0].dtype == torch.float8_e4m3fn else (None, None)
        qkv_TX = self._qkv(x_TM)
        q_THD = self._kernels.qkv_rotary(
            qkv_TX,
            self._norms.q_norm,
            self._norms.k_norm,
            self._arch.norm_eps,
            self._cos_sin_CR,
            batch.positions_T,
            batch.slots_T,
            *cache,
            k_scale_G,
            v_scale_G,
            self._norms.squares(qkv_TX),
        )
        out_THD = self._kernels.paged_attention(
            q_THD,
            *cache,
            batch.query_starts,
            batch.seq_lens_S,
            batch.block_table_SW,
            self._scale,
            self._window,
            self._arch.attention_cap,
            self._sinks_H,
            k_scale_G=k_scale_G,
            v_scale_G=v_scale_G,
            prefixes=batch.prefixes,
        )
        return self._tp.sum(self._out(out_THD.flatten(1)))
