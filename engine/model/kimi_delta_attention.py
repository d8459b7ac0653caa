"""Kimi Delta Attention (KDA, arXiv 2510.26692): the gated delta rule with a decay of each key channel."""

import torch
from torch import Tensor

from engine.arch.mixer_spec import KimiDeltaAttention as Spec
from engine.model.forward_batch import LayerBatch
from engine.model.layer_weights import LayerWeights
from kernels.gated_delta_rule.gates import DeltaGates
from kernels.operations import LinearKernel
from kernels.rms_norm.reference import rms_norm

__all__ = ["KimiDeltaAttention"]

AT = "self_attn"  # of the weights, as full attention has it


class KimiDeltaAttention:
    def __init__(self, spec: Spec, layer: LayerWeights) -> None:
        dim, tp, inner = layer.arch.model_dim, layer.tp, spec.num_heads * spec.head_dim
        self._spec, self._kernels, self._tp, self._eps = spec, layer.kernels, tp, layer.arch.norm_eps
        rows, heads = tp.rows(spec.num_heads, spec.head_dim), tp.rows(spec.num_heads)
        own, rank = (inner, rows), spec.gate_rank
        low = (rank, tp.whole_rows(rank))
        parts = {"q": own, "k": own, "v": own, "b": (spec.num_heads, heads)}
        parts |= {"f_a": low, "g_a": low} if rank else {"f": own, "g": own}
        linears = layer.linears
        self._in = linears.column_parallel({f"{AT}.{name}_proj": part for name, part in parts.items()}, dim, False)
        self._ups: list[LinearKernel] = []  # of the decays and of the output's gate, where they are low-rank
        if rank:
            self._ups = [linears.column_parallel({f"{AT}.{name}_b_proj": own}, rank, False) for name in "fg"]
        width = rows.stop - rows.start
        self._widths = [3 * width, heads.stop - heads.start, *[rank or width] * 2]
        names = [f"{AT}.{name}_conv1d.weight" for name in "qkv"]
        convs = [layer.take(name, inner, 1, spec.kernel_size, dtype=torch.float32, part=rows) for name in names]
        self._weight_CK = torch.cat(convs)[:, 0]
        self._rate_C = _rates(spec, layer)[heads.start : heads.stop].repeat_interleave(spec.head_dim)
        self._dt_bias_C = layer.take(f"{AT}.dt_bias", inner, dtype=torch.float32, part=rows)
        self._norm_D = layer.take(f"{AT}.o_norm.weight", spec.head_dim, dtype=torch.float32)
        columns = tp.columns(spec.num_heads, spec.head_dim)
        self._out = layer.linears.row_parallel(f"{AT}.o_proj", dim, inner, columns, False)

    def __call__(self, x_TM: Tensor, batch: LayerBatch, cache: tuple[Tensor, ...]) -> Tensor:
        """[T, M], added up over ranks. Advances the sequences' states."""
        assert batch.states is not None
        conv_state, memory = cache
        kernels, head_dim = self._kernels, self._spec.head_dim
        qkv_TC, b_TH, f_TC, g_TC = torch.split(self._in(x_TM), self._widths, 1)
        if self._ups:
            f_TC, g_TC = (up(low_TR.contiguous()) for up, low_TR in zip(self._ups, (f_TC, g_TC), strict=True))
        mixed_TC = kernels.causal_conv(qkv_TC, conv_state, self._weight_CK, None, batch.states, True)
        q_THD, k_THD, v_THD = (one.view(len(x_TM), -1, head_dim) for one in mixed_TC.chunk(3, 1))
        gates = DeltaGates(self._decay(f_TC).view(k_THD.shape), kernels.unary(b_TH, "sigmoid"))
        out_THD = kernels.gated_delta_rule(q_THD, k_THD, v_THD, gates, memory, batch.states)
        gate_THD = kernels.unary(g_TC, "sigmoid").view(out_THD.shape)
        normed_THD = rms_norm(out_THD, self._norm_D, self._eps).float() * gate_THD
        return self._tp.all_reduce(self._out(normed_THD.to(x_TM.dtype).flatten(1)))

    def _decay(self, f_TC: Tensor) -> Tensor:
        """fp32, of each key channel."""
        unary, bound, step_TC = self._kernels.unary, self._spec.log_decay_bound, f_TC.float() + self._dt_bias_C
        if bound is None:
            return unary(-self._rate_C * unary(step_TC, "softplus"), "exp")
        return unary(bound * unary(self._rate_C * step_TC, "sigmoid"), "exp")


def _rates(spec: Spec, layer: LayerWeights) -> Tensor:
    """[H] fp32, of all ranks' heads. Kimi Linear has them in four dimensions."""
    name, shape = f"{AT}.A_log", (spec.num_heads,)
    whole = f"{layer.at}.{name}"
    if layer.weights.has(whole) and len(layer.weights.shape(whole)) == 4:
        return layer.take(name, 1, 1, *shape, 1, dtype=torch.float32).flatten().exp()
    return layer.take(name, *shape, dtype=torch.float32).exp()
