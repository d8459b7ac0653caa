"""Mamba-2 (arXiv 2405.21060): a convolution, a selective scan whose state is a matrix of each head, a gated norm."""

import torch
from torch import Tensor

from engine.arch.mixer_spec import Mamba2 as Spec
from engine.checkpoint.shard import Shard
from engine.model.forward_batch import LayerBatch
from engine.model.layer_weights import LayerWeights
from kernels.rms_norm.reference import rms_norm
from kernels.selective_scan.gates import ScanGates

__all__ = ["Mamba2"]


class Mamba2:
    def __init__(self, spec: Spec, layer: LayerWeights) -> None:
        dim, tp = layer.arch.model_dim, layer.tp
        self._spec, self._kernels, self._tp, self._eps = spec, layer.kernels, tp, layer.arch.norm_eps
        inner, shared = spec.num_heads * spec.head_dim, spec.num_groups * spec.state_dim
        rows, group_rows = tp.rows(spec.num_heads, spec.head_dim), tp.rows(spec.num_groups, spec.state_dim)
        heads = tp.rows(spec.num_heads)
        parts = {"z": (inner, rows), "x": (inner, rows), "b": (shared, group_rows), "c": (shared, group_rows)}
        named = {f"mamba.in_proj_{name}": part for name, part in {**parts, "dt": (spec.num_heads, heads)}.items()}
        self._widths = [part.stop - part.start for _, part in named.values()]
        self._in = layer.linears.column_parallel(named, dim, spec.bias)
        channels = [(rows, 0), (group_rows, inner), (group_rows, inner + shared)]
        shape = (inner + 2 * shared, 1, spec.kernel_size)
        self._weight_CK = _shares(layer.take("mamba.conv1d.weight", *shape, dtype=torch.float32)[:, 0], channels)
        self._bias_C = None
        if spec.conv_bias:
            self._bias_C = _shares(layer.take("mamba.conv1d.bias", shape[0], dtype=torch.float32), channels)
        self._rate_H, self._dt_bias_H, self._skip_H = (
            layer.take(f"mamba.{name}", spec.num_heads, dtype=torch.float32, part=heads)
            for name in ("A_log", "dt_bias", "D")
        )
        self._rate_H = -self._rate_H.exp()
        self._norm_C: Tensor | None = None
        if spec.norm:
            self._norm_C = layer.take("mamba.norm.weight", inner, dtype=torch.float32, part=rows)
        columns = tp.columns(spec.num_heads, spec.head_dim)
        self._out = layer.linears.row_parallel("mamba.out_proj", dim, inner, columns, spec.bias)

    def __call__(self, x_TM: Tensor, batch: LayerBatch, cache: tuple[Tensor, ...]) -> Tensor:
        """[T, M], added up over ranks. Advances the sequences' states."""
        assert batch.states is not None
        spec, kernels, num_tokens = self._spec, self._kernels, len(x_TM)
        conv_state, memory = cache
        z_width, x_width, group_width, _, dt_width = self._widths
        mixed_width = x_width + 2 * group_width
        z_TC, mixed_TC, dt_TH = torch.split(self._in(x_TM), [z_width, mixed_width, dt_width], 1)
        mixed_TC = kernels.causal_conv(mixed_TC, conv_state, self._weight_CK, self._bias_C, batch.states, True)
        inner_TC, b_TX, c_TX = torch.split(mixed_TC, [x_width, group_width, group_width], 1)
        step_TH = kernels.unary(dt_TH.float() + self._dt_bias_H, "softplus").clamp(*spec.step_limit)
        out_THP = kernels.selective_scan(
            inner_TC.view(num_tokens, -1, spec.head_dim),
            b_TX.view(num_tokens, -1, spec.state_dim),
            c_TX.view(num_tokens, -1, spec.state_dim),
            ScanGates(kernels.unary(step_TH * self._rate_H, "exp"), step_TH, self._skip_H),
            memory,
            batch.states,
        )
        return self._tp.all_reduce(self._out(self._gated_norm(out_THP.flatten(1), z_TC)))

    def _gated_norm(self, out_TC: Tensor, z_TC: Tensor) -> Tensor:
        """The norm is over the channels of each group."""
        gate_TC, made_TC = self._kernels.unary(z_TC, "silu"), out_TC.float()
        if self._norm_C is None:
            return (made_TC * gate_TC).to(out_TC.dtype)
        if self._spec.norm == "after_gate":
            made_TC = made_TC * gate_TC
        width = self._spec.num_heads * self._spec.head_dim // self._spec.num_groups
        one = torch.ones(width, device=out_TC.device)
        normed_TC = rms_norm(made_TC.view(len(out_TC), -1, width), one, self._eps).flatten(1) * self._norm_C
        return (normed_TC if self._spec.norm == "after_gate" else normed_TC * gate_TC).to(out_TC.dtype)


def _shares(weight: Tensor, shares: list[tuple[Shard, int]]) -> Tensor:
    """This rank's rows of projections that lie one after the other, each from an offset on."""
    return torch.cat([weight[offset + share.start : offset + share.stop] for share, offset in shares])
