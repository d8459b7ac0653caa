"""The gated short convolution of LFM2: out(C * conv(B * x)), where B, C and x are projections of the input."""

import torch
from torch import Tensor

from engine.arch.mixer_spec import ShortConv as Spec
from engine.model.forward_batch import LayerBatch
from engine.model.layer_weights import LayerWeights

__all__ = ["ShortConv"]


class ShortConv:
    def __init__(self, spec: Spec, layer: LayerWeights) -> None:
        dim, tp = layer.arch.model_dim, layer.tp
        self._kernels, self._tp = layer.kernels, tp
        rows = tp.rows(dim)
        parts = {f"conv.in_proj_{name}": (dim, rows) for name in "bcx"}
        self._in = layer.linears.column_parallel(parts, dim, spec.bias)
        weight = layer.take("conv.conv.weight", dim, 1, spec.kernel_size, dtype=torch.float32, part=rows)
        self._weight_CK = weight[:, 0].contiguous()
        self._bias_C = layer.take("conv.conv.bias", dim, dtype=torch.float32, part=rows) if spec.bias else None
        self._out = layer.linears.row_parallel("conv.out_proj", dim, dim, tp.columns(dim), spec.bias)

    def __call__(self, x_TM: Tensor, batch: LayerBatch, cache: tuple[Tensor, ...]) -> Tensor:
        """[T, M], added up over ranks. Advances the sequences' states."""
        assert batch.states is not None
        b_TC, c_TC, x_TC = self._in(x_TM).chunk(3, -1)
        mixed_TC = self._kernels.causal_conv(b_TC * x_TC, cache[0], self._weight_CK, self._bias_C, batch.states, False)
        return self._tp.all_reduce(self._out(c_TC * mixed_TC))
