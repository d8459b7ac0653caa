"""What a layer makes of each token on its own."""

from torch import Tensor

from engine.model.arch import ModelArch
from engine.model.linears import Linears
from engine.model.weights import Weights
from engine.tensor_parallel import TensorParallel
from kernels.kernel_set import KernelSet

__all__ = ["FeedForward"]


class FeedForward:
    def __init__(self, arch: ModelArch, weights: Weights, kernels: KernelSet, index: int, tp: TensorParallel) -> None:
        self._arch = arch
        self._kernels = kernels
        self._tp = tp
        linears = Linears(weights, kernels, f"model.layers.{index}", tp)
        dim, ffn_dim, bias = arch.model_dim, arch.ffn_dim, arch.ffn_bias
        inner = ffn_dim, tp.rows(ffn_dim)
        self._gate_up = linears.cut_by_outputs({"mlp.gate_proj": inner, "mlp.up_proj": inner}, dim, bias)
        self._down = linears.cut_by_inputs("mlp.down_proj", dim, ffn_dim, tp.columns(ffn_dim), bias)

    def __call__(self, x_TM: Tensor) -> Tensor:
        """[T, M], added up over ranks."""
        return self._tp.sum(self._down(self._kernels.gated_activation(self._gate_up(x_TM), self._arch.activation)))
