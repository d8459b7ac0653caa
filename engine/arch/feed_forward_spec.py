"""Feed-forward specs: what a layer computes of each token alone, as data."""

from typing import Literal

import msgspec

from engine.arch.sizes import check_sizes

__all__ = [
    "Activation",
    "DenseMlp",
    "FeedForward",
    "MoE",
    "Router",
    "UngatedMlp",
]

Activation = Literal["silu", "gelu_tanh", "clamped"]  # of a gate


class DenseMlp(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """down(activation(gate) * up)."""

    dim: int  # inner dimensions
    activation: Activation = "silu"
    bias: bool = False
    sparsity: float = 0.0  # share of the gate that becomes 0: what is below that quantile of a normal distribution

    def __post_init__(self) -> None:
        check_sizes(self, "dim")


class UngatedMlp(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """down(activation(up)), by squared ReLU, xIELU, GELU or its approximation by tanh."""

    dim: int  # inner dimensions
    activation: Literal["relu2", "xielu", "gelu", "gelu_tanh"]
    bias: bool = False
    xielu: tuple[float, float, float, float] | None = None  # as hub checkpoints have them; None: among the weights

    def __post_init__(self) -> None:
        check_sizes(self, "dim")


class Router(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Chooses a token's experts by their scores, and weights them."""

    num_experts: int
    experts_per_token: int
    num_zero_experts: int = 0  # more of them, which give what they take
    scoring: Literal["softmax", "sigmoid", "sparse_mixer"] = "softmax"
    jitter: float = 0.0  # of sparse mixing: an expert's weight is its share among those whose logits are near its own
    renormalizes: bool = False  # the chosen experts' weights are scaled to add up to 1
    bias: bool = False  # added to the logits
    correction_bias: bool = False  # added to the scores for the choice, not for the weights
    corrections_may_lack: bool = False  # some checkpoints have none
    corrects_logits: bool = False  # it is added to the logits instead, also for the choice alone
    num_groups: int = 1  # experts are chosen from the best groups alone
    groups_per_token: int = 1
    group_score: Literal["max", "top2"] = "top2"  # of a group: its best expert, or the sum of its best two
    scale: float = 1.0  # multiplies the weights
    scales_inputs: bool = False  # a weight multiplies what its expert takes, not what it gives
    norm: bool = False  # the router takes the RMS norm of the input, times a learned scale of each dimension
    expert_scales: bool = False  # a learned factor of each expert multiplies its weight

    def __post_init__(self) -> None:
        if not 0 < self.experts_per_token <= self.num_experts:
            raise ValueError(f"{self.experts_per_token} of {self.num_experts} experts are taken")
        if self.num_experts % self.num_groups or not 0 < self.groups_per_token <= self.num_groups:
            raise ValueError(f"{self.groups_per_token} of {self.num_groups} groups of {self.num_experts} experts")
        if self.scoring == "sparse_mixer" and self.experts_per_token != 2:
            raise ValueError(f"sparse mixing takes 2 experts, not {self.experts_per_token}")
        if self.scales_inputs and self.experts_per_token > 1:
            raise ValueError("inputs are scaled for one expert per token, not for several")


class MoE(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Mixture of experts: each token takes a few of many MLPs, and the shared one where there is one."""

    router: Router
    dim: int  # inner dimensions of each expert
    activation: Activation | Literal["relu2"] = "silu"  # relu2: the experts have no gate
    bias: bool = False
    shared: DenseMlp | UngatedMlp | None = None  # for every token
    latent_dim: int = 0  # the experts take and give a projection to so many dimensions; 0: the model's own
    gates_shared: bool = False  # the shared expert's output is multiplied by the sigmoid of a learned score
    norms_apart: bool = False  # norms of their own before and after the experts, and before and after the shared one

    def __post_init__(self) -> None:
        check_sizes(self, "dim")


FeedForward = DenseMlp | UngatedMlp | MoE
