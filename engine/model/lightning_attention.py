"""Lightning attention (arXiv 2401.04658), as MiniMax-Text-01 has it: linear attention whose state decays by a constant.

It is a selective scan whose decay does not depend on the token: S = decay * S + v k; out = S q.
"""

import torch
from torch import Tensor

from engine.arch.mixer_spec import LightningAttention as Spec
from engine.model.forward_batch import LayerBatch
from engine.model.layer_weights import LayerWeights
from kernels.selective_scan.gates import ScanGates

__all__ = ["LightningAttention"]


class LightningAttention:
    def __init__(self, spec: Spec, layer: LayerWeights) -> None:
        dim, tp, inner = layer.arch.model_dim, layer.tp, spec.num_heads * spec.head_dim
        self._spec, self._kernels, self._tp = spec, layer.kernels, tp
        rows, heads = tp.rows(spec.num_heads, spec.head_dim), tp.rows(spec.num_heads)
        parts = {f"self_attn.{name}_proj": (inner, rows) for name in "qkv"}
        self._qkv = layer.linears.column_parallel(parts, dim, False)
        self._gate = layer.linears.column_parallel({"self_attn.output_gate": (inner, rows)}, dim, False)
        self._norm_C = layer.take("self_attn.norm.weight", inner, dtype=torch.float32, part=rows)
        head_H = torch.arange(1, spec.num_heads + 1, dtype=torch.float64)
        decay_H = torch.exp(-spec.decay * 2 ** (-8 * head_H / spec.num_heads)).float()
        self._decay_H = decay_H[heads.start : heads.stop].to(layer.weights.device)
        self._one_H, self._zero_H = torch.ones_like(self._decay_H), torch.zeros_like(self._decay_H)
        columns = tp.columns(spec.num_heads, spec.head_dim)
        self._out = layer.linears.row_parallel("self_attn.out_proj", dim, inner, columns, False)

    def __call__(self, x_TM: Tensor, batch: LayerBatch, cache: tuple[Tensor, ...]) -> Tensor:
        """[T, M], added up over ranks. Advances the sequences' states."""
        assert batch.states is not None
        (memory,) = cache
        kernels, num_tokens = self._kernels, len(x_TM)
        qkv_TX = kernels.unary(self._qkv(x_TM), "silu").to(x_TM.dtype)
        q_THD, k_THD, v_THD = (one.view(num_tokens, -1, self._spec.head_dim) for one in qkv_TX.chunk(3, 1))
        shape = num_tokens, len(self._decay_H)
        gates = ScanGates(
            self._decay_H.expand(shape).contiguous(), self._one_H.expand(shape).contiguous(), self._zero_H
        )
        out_TC = kernels.selective_scan(v_THD, k_THD, q_THD, gates, memory, batch.states).flatten(1)
        gate_TC = kernels.unary(self._gate(x_TM), "sigmoid")
        return self._tp.all_reduce(self._out((self._normed(out_TC) * gate_TC).to(x_TM.dtype)))

    def _normed(self, out_TC: Tensor) -> Tensor:
        """fp32, over the heads of all ranks."""
        width = out_TC.shape[1]
        squares_T = self._tp.all_reduce(self._kernels.square_sums(out_TC, width, 0))[:, :1]
        mean_T1 = squares_T / (self._spec.num_heads * self._spec.head_dim)
        return out_TC.float() * torch.rsqrt(mean_T1 + self._spec.norm_eps) * self._norm_C
