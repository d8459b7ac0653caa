"""Kimi Delta Attention (KDA, arXiv 2510.26692): the gated delta rule with a decay of each key channel."""

import torch
from torch import Tensor

from engine.arch.layer_spec import KimiDeltaAttention as Spec
from engine.model.forward_batch import LayerBatch
from engine.model.layer_weights import LayerWeights
from kernels.gated_delta_rule.gates import DeltaGates
from kernels.rms_norm.reference import rms_norm

__all__ = ["KimiDeltaAttention"]

AT = "self_attn"  # of the weights, as full attention has it


class KimiDeltaAttention:
    def __init__(self, spec: Spec, layer: LayerWeights) -> None:
        dim, tp, inner = layer.arch.model_dim, layer.tp, spec.num_heads * spec.head_dim
        self._spec, self._kernels, self._tp, self._eps = spec, layer.kernels, tp, layer.arch.norm_eps
        rows, heads = tp.rows(spec.num_heads, spec.head_dim), tp.rows(spec.num_heads)
        low = spec.gate_rank, tp.whole_rows(spec.gate_rank)
        parts = {"q": (inner, rows), "k": (inner, rows), "v": (inner, rows), "b": (spec.num_heads, heads)}
        named = {f"{AT}.{name}_proj": part for name, part in (parts | {"f_a": low, "g_a": low}).items()}
        self._in = layer.linears.column_parallel(named, dim, False)
        self._decay_up = layer.linears.column_parallel({f"{AT}.f_b_proj": (inner, rows)}, spec.gate_rank, False)
        self._gate_up = layer.linears.column_parallel({f"{AT}.g_b_proj": (inner, rows)}, spec.gate_rank, False)
        self._num_heads, self._width = heads.stop - heads.start, rows.stop - rows.start
        names = [f"{AT}.{name}_conv1d.weight" for name in "qkv"]
        convs = [layer.take(name, inner, 1, spec.kernel_size, dtype=torch.float32, part=rows) for name in names]
        self._weight_CK = torch.cat(convs)[:, 0]
        rate = f"{AT}.A_log"  # of a head, in any number of dimensions
        rate_H = layer.take(rate, *layer.weights.shape(f"{layer.at}.{rate}"), dtype=torch.float32).flatten().exp()
        self._rate_C = -rate_H[heads.start : heads.stop].repeat_interleave(spec.head_dim)
        self._dt_bias_C = layer.take(f"{AT}.dt_bias", inner, dtype=torch.float32, part=rows)
        self._norm_D = layer.take(f"{AT}.o_norm.weight", spec.head_dim, dtype=torch.float32)
        columns = tp.columns(spec.num_heads, spec.head_dim)
        self._out = layer.linears.row_parallel(f"{AT}.o_proj", dim, inner, columns, False)

    def __call__(self, x_TM: Tensor, batch: LayerBatch, cache: tuple[Tensor, ...]) -> Tensor:
        """[T, M], added up over ranks. Advances the sequences' states."""
        assert batch.states is not None
        conv_state, memory = cache
        kernels, rank, head_dim = self._kernels, self._spec.gate_rank, self._spec.head_dim
        qkv_TC, b_TH, f_TR, g_TR = torch.split(self._in(x_TM), [3 * self._width, self._num_heads, rank, rank], 1)
        mixed_TC = kernels.causal_conv(qkv_TC, conv_state, self._weight_CK, None, batch.states, True)
        q_THD, k_THD, v_THD = (one.view(len(x_TM), -1, head_dim) for one in mixed_TC.chunk(3, 1))
        gates = DeltaGates(self._decay(f_TR).view(k_THD.shape), kernels.unary(b_TH, "sigmoid"))
        out_THD = kernels.gated_delta_rule(q_THD, k_THD, v_THD, gates, memory, batch.states)
        gate_THD = kernels.unary(self._gate_up(g_TR.contiguous()), "sigmoid").view(out_THD.shape)
        normed_THD = rms_norm(out_THD, self._norm_D, self._eps).float() * gate_THD
        return self._tp.all_reduce(self._out(normed_THD.to(x_TM.dtype).flatten(1)))

    def _decay(self, f_TR: Tensor) -> Tensor:
        """fp32, of each key channel."""
        step_TC = self._kernels.unary(self._decay_up(f_TR.contiguous()).float() + self._dt_bias_C, "softplus")
        return self._kernels.unary(self._rate_C * step_TC, "exp")
