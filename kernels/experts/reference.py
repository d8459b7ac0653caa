"""Mixture of experts: a feed-forward of many experts, of which each row takes a few. The reference."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kernels.activation.reference import activation as ungated_activation
from kernels.gated_activation.reference import Activation, gated_activation
from kernels.linear.reference import Linear
from kernels.quantized_linear.reference import GroupQuantized

__all__ = ["Expert", "ExpertActivation", "Experts", "activate", "route"]


ExpertActivation = Activation | Literal["relu2"]


def activate(x_TF: Tensor, activation: ExpertActivation, gate: Callable[..., Tensor] = gated_activation) -> Tensor:
    """What an expert does between its matrices. `gate` is any implementation of kernels/gated_activation."""
    return ungated_activation(x_TF, "relu2") if activation == "relu2" else gate(x_TF, activation)


def route(logits_TE: Tensor, top_k: int, renormalise: bool) -> tuple[Tensor, Tensor]:
    """Which experts a row takes, the best first, and with what weights: ids [T, K] int64, weights [T, K] fp32.

    logits_TE    [T, E] fp32
    renormalise  weights are the softmax over all experts; divided by their sum, so that they add up to 1

    Of equal experts the first comes first.
    """
    shares_TE, order_TE = logits_TE.softmax(-1).sort(dim=-1, descending=True, stable=True)
    weights_TK = shares_TE[:, :top_k]
    if renormalise:
        weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
    return order_TE[:, :top_k], weights_TK


class Expert(NamedTuple):
    """Gate and up stacked [2 F, M], or up alone [F, M], down [M, F]; all experts of a block have biases, or none has.

    Matrices may be GroupQuantized where the kernels' `linear` takes them.
    """

    gate_up: Tensor | GroupQuantized
    down: Tensor | GroupQuantized
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None


class Experts:
    """x -> the sum over a row's experts of weight * down @ (activation(gate @ x) * (up @ x)), biases where there are.

    By relu2, squared ReLU: of weight * down @ relu2(up @ x).

    May keep them in another form; while it makes it, it holds one layer's twice.
    """

    def __init__(
        self,
        experts: Iterable[Expert],
        activation: ExpertActivation = "silu",
        linear: Callable[..., Callable[[Tensor], Tensor]] = Linear,
        gate: Callable[..., Tensor] = gated_activation,
    ) -> None:
        """`linear` and `gate` are any implementation of these operations."""
        self._experts = [
            (linear(one.gate_up, one.gate_up_bias), linear(one.down, one.down_bias, torch.float32)) for one in experts
        ]
        self._activate = partial(activate, activation=activation, gate=gate)

    def __call__(self, x_TM: Tensor, ids_TK: Tensor, weights_TK: Tensor, added_TM: Tensor | None = None) -> Tensor:
        """[T, M] in x's dtype, of ids and weights as route gives them. An id that no expert has adds nothing.
        `added_TM`, a shared expert's output, is added to the sum.

        Sums are in fp32, what goes into `down` in x's dtype. A row's result does not depend on the other rows, as far
        as that of kernels/linear does not.
        """
        out_TM = torch.zeros_like(x_TM, dtype=torch.float32)
        for expert in sorted(set(ids_TK.flatten().tolist()) & set(range(len(self._experts)))):
            rows, places = (ids_TK == expert).nonzero(as_tuple=True)
            gate_up, down = self._experts[expert]
            made = down(self._activate(gate_up(x_TM[rows])))
            out_TM[rows] += made * weights_TK[rows, places, None]
        return (out_TM if added_TM is None else out_TM + added_TM).to(x_TM.dtype)
