"""The feed-forward layer: a gated MLP, or a mixture of experts with its router."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from engine.checkpoint.arch import ModelArch
from engine.checkpoint.matrix import stacked
from engine.checkpoint.weights import Weights
from engine.model.linears import Linears
from engine.parallel.tensor_parallel import TensorParallel
from kernels.experts.reference import Expert
from kernels.kernel_set import KernelSet

__all__ = ["feed_forward"]


def feed_forward(
    arch: ModelArch, weights: Weights, kernels: KernelSet, index: int, tp: TensorParallel
) -> Callable[[Tensor], Tensor]:
    """[T, M] -> [T, M], all-reduced: each rank has a shard of the inner dimensions, of every expert too."""
    kind = _Experts if arch.num_experts else _Block
    return kind(arch, weights, kernels, f"model.layers.{index}", tp)


class _Block:
    def __init__(self, arch: ModelArch, weights: Weights, kernels: KernelSet, at: str, tp: TensorParallel) -> None:
        self._arch = arch
        self._kernels = kernels
        self._tp = tp
        linears = Linears(weights, kernels, at, tp)
        dim, ffn_dim, bias = arch.model_dim, arch.ffn_dim, arch.ffn_bias
        inner = ffn_dim, tp.rows(ffn_dim)
        self._gate_up = linears.column_parallel({"mlp.gate_proj": inner, "mlp.up_proj": inner}, dim, bias)
        self._down = linears.row_parallel("mlp.down_proj", dim, ffn_dim, tp.columns(ffn_dim), bias)

    def __call__(self, x_TM: Tensor) -> Tensor:
        return self._tp.all_reduce(
            self._down(self._kernels.gated_activation(self._gate_up(x_TM), self._arch.activation))
        )


class _Experts:
    def __init__(self, arch: ModelArch, weights: Weights, kernels: KernelSet, at: str, tp: TensorParallel) -> None:
        self._arch = arch
        self._kernels = kernels
        self._tp = tp
        gate_EM = weights.take(f"{at}.mlp.gate.weight", arch.num_experts, arch.model_dim)
        bias_E = weights.take(f"{at}.mlp.gate.bias", arch.num_experts) if arch.expert_bias else None
        self._gate = kernels.linear(gate_EM, bias_E, torch.float32)
        self._experts = kernels.experts(_each(arch, weights, kernels, at, tp), arch.activation)

    def __call__(self, x_TM: Tensor) -> Tensor:
        arch = self._arch
        ids_TK, weights_TK = self._kernels.route(self._gate(x_TM), arch.experts_per_token, arch.renormalizes_experts)
        return self._tp.all_reduce(self._experts(x_TM, ids_TK, weights_TK))


def _each(arch: ModelArch, weights: Weights, kernels: KernelSet, at: str, tp: TensorParallel) -> Iterator[Expert]:
    take = weights.take_matrix if kernels.experts_keep_ints else weights.take
    dim, ffn_dim = arch.model_dim, arch.ffn_dim
    rows, columns = tp.rows(ffn_dim), tp.columns(ffn_dim)
    for expert in range(arch.num_experts):
        name = f"{at}.mlp.experts.{expert}"
        pair = [take(f"{name}.{which}_proj.weight", ffn_dim, dim, part=rows) for which in ("gate", "up")]
        gate_up, down = stacked(pair, weights.dtype), take(f"{name}.down_proj.weight", dim, ffn_dim, part=columns)
        if not arch.expert_bias:
            yield Expert(gate_up, down)
            continue
        biases = [weights.take(f"{name}.{which}_proj.bias", ffn_dim, part=rows) for which in ("gate", "up")]
        down_bias_M = weights.take(f"{name}.down_proj.bias", dim)  # added by one rank
        if tp.rank != 0:
            down_bias_M = torch.zeros_like(down_bias_M)
        yield Expert(gate_up, down, torch.cat(biases), down_bias_M)
