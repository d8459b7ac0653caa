"""Gated DeltaNet (arXiv 2412.06464), as Qwen3-Next and Qwen3.5 have it: linear attention whose state is a matrix."""

import torch
from torch import Tensor

from engine.arch.mixer_spec import GatedDeltaNet as Spec
from engine.checkpoint.shard import Shard
from engine.model.forward_batch import LayerBatch
from engine.model.layer_weights import LayerWeights
from kernels.gated_delta_rule.gates import DeltaGates
from kernels.rms_norm.reference import rms_norm

__all__ = ["GatedDeltaNet"]


class GatedDeltaNet:
    def __init__(self, spec: Spec, layer: LayerWeights) -> None:
        dim, tp = layer.arch.model_dim, layer.tp
        self._spec, self._kernels, self._tp = spec, layer.kernels, tp
        self._eps = layer.arch.norm_eps if spec.norm_eps is None else spec.norm_eps
        k_dim, v_dim = spec.num_k_heads * spec.k_dim, spec.num_v_heads * spec.v_dim
        k_rows, v_rows = tp.rows(spec.num_k_heads, spec.k_dim), tp.rows(spec.num_v_heads, spec.v_dim)
        heads = tp.rows(spec.num_v_heads)
        self._widths = [rows.stop - rows.start for rows in (k_rows, k_rows, v_rows, v_rows, heads, heads)]
        at = "linear_attn"
        parts = {"q": (k_dim, k_rows), "k": (k_dim, k_rows), "v": (v_dim, v_rows), "z": (v_dim, v_rows)}
        gates = {"b": (spec.num_v_heads, heads), "a": (spec.num_v_heads, heads)}
        named = {f"{at}.in_proj_{name}": part for name, part in (parts | gates).items()}
        self._in = layer.linears.column_parallel(named, dim, False)
        weight = _conv_weight(spec, layer, at)
        shares = (k_rows, _behind(k_rows, k_dim), _behind(v_rows, 2 * k_dim))
        self._weight_CK = torch.cat([weight[share.start : share.stop] for share in shares])
        self._rate_H = -layer.take(f"{at}.A_log", spec.num_v_heads, dtype=torch.float32, part=heads).exp()
        self._dt_bias_H = layer.take(f"{at}.dt_bias", spec.num_v_heads, dtype=torch.float32, part=heads)
        self._norm_V = layer.take(f"{at}.norm.weight", spec.v_dim, dtype=torch.float32)
        columns = tp.columns(spec.num_v_heads, spec.v_dim)
        self._out = layer.linears.row_parallel(f"{at}.out_proj", dim, v_dim, columns, False)

    def __call__(self, x_TM: Tensor, batch: LayerBatch, cache: tuple[Tensor, ...]) -> Tensor:
        """[T, M], added up over ranks. Advances the sequences' states."""
        assert batch.states is not None
        conv_state, memory = cache
        spec, kernels, num_tokens = self._spec, self._kernels, len(x_TM)
        projected_TX = self._in(x_TM)
        q_width, _, v_width, *_ = self._widths
        mixed_width = 2 * q_width + v_width
        _, z_TX, b_TH, a_TH = torch.split(projected_TX, [mixed_width, v_width, *self._widths[4:]], 1)
        mixed_TX = kernels.causal_conv(
            projected_TX[:, :mixed_width], conv_state, self._weight_CK, None, batch.states, True
        )
        q_TX, k_TX, v_TX = torch.split(mixed_TX, [q_width, q_width, v_width], 1)
        decay_TH = kernels.unary(self._rate_H * kernels.unary(a_TH.float() + self._dt_bias_H, "softplus"), "exp")
        out_THV = kernels.gated_delta_rule(
            q_TX.view(num_tokens, -1, spec.k_dim),
            k_TX.view(num_tokens, -1, spec.k_dim),
            v_TX.view(num_tokens, -1, spec.v_dim),
            DeltaGates(decay_TH[..., None], self._beta(b_TH)),
            memory,
            batch.states,
        )
        gate_THV = kernels.unary(z_TX, "silu").view(out_THV.shape)
        normed_THV = rms_norm(out_THV, self._norm_V, self._eps).float() * gate_THV
        return self._tp.all_reduce(self._out(normed_THV.to(x_TM.dtype).flatten(1)))

    def _beta(self, b_TH: Tensor) -> Tensor:
        beta_TH = self._kernels.unary(b_TH, "sigmoid")
        return beta_TH if self._spec.beta_scale == 1.0 else beta_TH * self._spec.beta_scale


def _conv_weight(spec: Spec, layer: LayerWeights, at: str) -> Tensor:
    """[C, K], of queries, keys and values, one after the other."""
    k_dim, v_dim = spec.num_k_heads * spec.k_dim, spec.num_v_heads * spec.v_dim
    widths = {"conv1d": 2 * k_dim + v_dim}
    if spec.convs_apart:
        widths = {"q_conv1d": k_dim, "k_conv1d": k_dim, "v_conv1d": v_dim}
    parts = [
        layer.take(f"{at}.{name}.weight", width, 1, spec.kernel_size, dtype=torch.float32)[:, 0]
        for name, width in widths.items()
    ]
    return torch.cat(parts)


def _behind(rows: Shard, count: int) -> Shard:
    return Shard(0, rows.start + count, rows.stop + count)
