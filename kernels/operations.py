"""Typed protocols of the operations, one each: what a KernelSet holds. Contracts are in kernels/<op>/reference.py."""

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from kernels.causal_conv.layout import StateLayout
from kernels.experts.reference import Expert, ExpertActivation
from kernels.experts.routing import RouterSpec
from kernels.gated_activation.reference import Activation
from kernels.gated_delta_rule.gates import DeltaGates
from kernels.latent_attention.spec import LatentSpec
from kernels.latent_rotary.spec import LatentRotarySpec
from kernels.paged_attention.spec import AttentionLayout, AttentionSpec
from kernels.penalties.reference import PenaltyEntries
from kernels.qkv_rotary.spec import QkvSpec
from kernels.quantized_linear.reference import GroupQuantized
from kernels.selective_scan.gates import ScanGates
from kernels.sparse_indexer.spec import IndexSpec
from kernels.unary.reference import Function

__all__ = [
    "AddBias",
    "AddRmsNorm",
    "AllowBits",
    "AllowOnly",
    "CausalConv",
    "Choose",
    "ChooseTokens",
    "Embedding",
    "ExpertsKernel",
    "ExpertsPacker",
    "Filter",
    "Forbid",
    "GatedActivation",
    "GatedDeltaRule",
    "HeadLinearPacker",
    "IndexRotary",
    "LatentAttention",
    "LatentRotary",
    "LinearKernel",
    "LinearPacker",
    "Logprobs",
    "PagedAttention",
    "Penalties",
    "QkvRotary",
    "QuantizedLinearPacker",
    "Route",
    "RouteByScores",
    "SelectiveScan",
    "SoftCap",
    "SquareSums",
    "Unary",
]

Cache = tuple[Tensor, Tensor]  # keys and values, [N, G, P, D]


class LinearKernel(Protocol):
    """A packed matrix."""

    def __call__(self, x_TI: Tensor, /) -> Tensor: ...


class LinearPacker(Protocol):
    def __call__(
        self, weight_OI: Tensor, bias_O: Tensor | None = None, out_dtype: torch.dtype | None = None, /
    ) -> LinearKernel: ...


class QuantizedLinearPacker(Protocol):
    def __call__(
        self, weight: GroupQuantized, bias_O: Tensor | None = None, out_dtype: torch.dtype | None = None, /
    ) -> LinearKernel: ...


class Embedding(Protocol):
    def __call__(self, weight_VM: Tensor, tokens_T: Tensor, /) -> Tensor: ...


class AddRmsNorm(Protocol):
    def __call__(
        self,
        x: Tensor,
        residual: Tensor,
        weight_M: Tensor | None,
        eps: float,
        x_weight_M: Tensor | None = None,
        x_scale: float = 1.0,
    ) -> Tensor: ...


class SquareSums(Protocol):
    def __call__(self, qkv_TX: Tensor, num_queries: int, num_keys: int, /) -> Tensor: ...


class QkvRotary(Protocol):
    def __call__(
        self,
        qkv_TX: Tensor,
        cache: Cache,
        positions_T: Tensor,
        slots_T: Tensor,
        spec: QkvSpec,
        squares_T2: Tensor | None = None,
        /,
    ) -> Tensor: ...


class PagedAttention(Protocol):
    def __call__(
        self,
        q_THD: Tensor,
        cache: Cache,
        layout: AttentionLayout,
        spec: AttentionSpec,
        lse_out_TH: Tensor | None = None,
        /,
    ) -> Tensor: ...


class LatentRotary(Protocol):
    def __call__(
        self,
        q_THX: Tensor,
        kv_TX: Tensor,
        cache: Tensor,
        positions_T: Tensor,
        slots_T: Tensor,
        spec: LatentRotarySpec,
        /,
    ) -> None: ...


class LatentAttention(Protocol):
    def __call__(self, q_THX: Tensor, cache: Tensor, layout: AttentionLayout, spec: LatentSpec, /) -> Tensor: ...


class IndexRotary(Protocol):
    def __call__(
        self,
        q_THD: Tensor,
        k_TD: Tensor,
        cache: Tensor,
        positions_T: Tensor,
        slots_T: Tensor,
        spec: IndexSpec,
        /,
    ) -> None: ...


class ChooseTokens(Protocol):
    def __call__(
        self, q_THD: Tensor, weight_TH: Tensor, cache: Tensor, layout: AttentionLayout, top_k: int, /
    ) -> Tensor: ...


class HeadLinearPacker(Protocol):
    """(weight_HOI) -> the packed matrices, which map [T, H, I] to [T, H, O]."""

    def __call__(self, weight_HOI: Tensor, /) -> LinearKernel: ...


class CausalConv(Protocol):
    def __call__(
        self,
        x_TC: Tensor,
        state: Tensor,
        weight_CK: Tensor,
        bias_C: Tensor | None,
        layout: StateLayout,
        with_silu: bool,
        /,
    ) -> Tensor: ...


class GatedDeltaRule(Protocol):
    def __call__(
        self,
        q_TGK: Tensor,
        k_TGK: Tensor,
        v_THV: Tensor,
        gates: DeltaGates,
        state: Tensor,
        layout: StateLayout,
        /,
    ) -> Tensor: ...


class SelectiveScan(Protocol):
    def __call__(
        self,
        x_THP: Tensor,
        b_TGN: Tensor,
        c_TGN: Tensor,
        gates: ScanGates,
        state: Tensor,
        layout: StateLayout,
        /,
    ) -> Tensor: ...


class Unary(Protocol):
    def __call__(self, x: Tensor, function: Function, /) -> Tensor: ...


class GatedActivation(Protocol):
    def __call__(self, gate_up_TF: Tensor, activation: Activation = "silu", /) -> Tensor: ...


class Route(Protocol):
    def __call__(self, logits_TE: Tensor, top_k: int, renormalize: bool, /) -> tuple[Tensor, Tensor]: ...


class RouteByScores(Protocol):
    """Routers beyond `Route`: kernels/experts/routing.py."""

    def __call__(self, logits_TE: Tensor, spec: RouterSpec, /) -> tuple[Tensor, Tensor]: ...


class ExpertsKernel(Protocol):
    """The packed experts of a layer."""

    def __call__(
        self, x_TM: Tensor, ids_TK: Tensor, weights_TK: Tensor, added_TM: Tensor | None = None, /
    ) -> Tensor: ...


class ExpertsPacker(Protocol):
    def __call__(self, experts: Iterable[Expert], activation: ExpertActivation = "silu", /) -> ExpertsKernel: ...


class SoftCap(Protocol):
    def __call__(self, logits_RV: Tensor, cap: float, /) -> Tensor: ...


class AllowBits(Protocol):
    def __call__(self, logits_RV: Tensor, bits_RW: Tensor, /) -> Tensor: ...


class AllowOnly(Protocol):
    def __call__(self, logits_RV: Tensor, limited_R: Tensor, rows_E: Tensor, tokens_E: Tensor, /) -> Tensor: ...


class Forbid(Protocol):
    def __call__(self, logits_RV: Tensor, rows_E: Tensor, tokens_E: Tensor, /) -> Tensor: ...


class AddBias(Protocol):
    def __call__(self, logits_RV: Tensor, rows_E: Tensor, tokens_E: Tensor, bias_E: Tensor, /) -> Tensor: ...


class Penalties(Protocol):
    def __call__(
        self,
        logits_RV: Tensor,
        entries: PenaltyEntries,
        presence_R: Tensor,
        frequency_R: Tensor,
        repetition_R: Tensor,
        /,
    ) -> Tensor: ...


class Filter(Protocol):
    """Temperature, min-p, top-k or top-p: maps [R, V] to [R, V] by one number for each row."""

    def __call__(self, logits_RV: Tensor, value_R: Tensor, /) -> Tensor: ...


class Choose(Protocol):
    def __call__(self, logits_RV: Tensor, greedy_R: Tensor, seeds_R: Tensor, positions_R: Tensor, /) -> Tensor: ...


class Logprobs(Protocol):
    def __call__(self, logits_RV: Tensor, chosen_R: Tensor, num_top: int, /) -> tuple[Tensor, Tensor, Tensor]: ...
