"""Routers beyond softmax and top-k: sigmoid scores, correction bias, groups of experts. The reference, on every device.

The choice within groups is of DeepSeek-V2 and V3 (arXiv 2405.04434, 2412.19437). Nothing waits for the device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kernels.unary.reference import Function
from kernels.unary.reference import unary as unary_reference

__all__ = ["RouterSpec", "route_by_scores"]


@dataclass(frozen=True)
class RouterSpec:
    """Rules of a layer, bound at construction.

    correction_E     [E] fp32 or None: added to the scores for the choice, not for the weights
    num_groups       experts lie in so many groups of equal size; only those of the best `groups_per_token` are chosen
    group_score      of a group: its best expert's score, or the sum of its best two
    renormalizes     the chosen experts' scores are divided by their sum
    scale            multiplies the weights
    corrects_logits  the correction is added to the logits, also for the choice alone
    jitter           of sparse mixing, as below
    """

    top_k: int
    scoring: Literal["softmax", "sigmoid", "sparse_mixer"] = "softmax"
    renormalizes: bool = False
    correction_E: Tensor | None = None
    num_groups: int = 1
    groups_per_token: int = 1
    group_score: Literal["max", "top2"] = "top2"
    scale: float = 1.0
    corrects_logits: bool = False
    jitter: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether it is kernels/experts/reference.py's route."""
        is_one_group = self.num_groups == self.groups_per_token
        return self.scoring == "softmax" and self.correction_E is None and is_one_group and self.scale == 1.0


def route_by_scores(
    logits_TE: Tensor, spec: RouterSpec, unary: Callable[[Tensor, Function], Tensor] = unary_reference
) -> tuple[Tensor, Tensor]:
    """Which experts a row takes, the best first, and with what weights: ids [T, K] int64, weights [T, K] fp32.

    logits_TE  [T, E] fp32
    unary      any implementation of kernels/unary

    Of equal experts the first comes first.
    """
    if spec.scoring == "sparse_mixer":
        return _sparse_mixer(logits_TE, spec.jitter)
    scores_TE = unary(logits_TE, "sigmoid") if spec.scoring == "sigmoid" else logits_TE.softmax(-1)
    rank_TE = logits_TE if spec.corrects_logits else scores_TE
    if spec.correction_E is not None:
        rank_TE = rank_TE + spec.correction_E
    if spec.num_groups > spec.groups_per_token:
        rank_TE = rank_TE.masked_fill(~_in_best_groups(rank_TE, spec), -torch.inf)
    ids_TK = rank_TE.sort(dim=-1, descending=True, stable=True).indices[:, : spec.top_k]
    weights_TK = scores_TE.gather(1, ids_TK)
    if spec.renormalizes:
        weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True).clamp(min=1e-20)
    return ids_TK, weights_TK * spec.scale


def _in_best_groups(rank_TE: Tensor, spec: RouterSpec) -> Tensor:
    """[T, E] bool."""
    groups_TGE = rank_TE.view(len(rank_TE), spec.num_groups, rank_TE.shape[1] // spec.num_groups)
    if spec.group_score == "max":
        scores_TG = groups_TGE.amax(-1)
    else:
        scores_TG = groups_TGE.topk(min(2, groups_TGE.shape[2]), -1).values.sum(-1)
    best = scores_TG.sort(dim=-1, descending=True, stable=True).indices[:, : spec.groups_per_token]
    chosen_TG = torch.zeros_like(scores_TG, dtype=torch.bool).scatter_(1, best, True)
    return chosen_TG.repeat_interleave(groups_TGE.shape[2], 1)


def _sparse_mixer(logits_TE: Tensor, jitter: float) -> tuple[Tensor, Tensor]:
    """SparseMixer-v2's choice of two (arXiv 2409.12136): an expert's weight is its softmax among those left whose
    logits are at most 2 * jitter below its own, as a share of the larger size of both.
    """
    left_TE, ids, weights = logits_TE, [], []
    for _ in range(2):
        best_T1, id_T1 = left_TE.max(-1, keepdim=True)
        size_TE = torch.maximum(logits_TE.abs(), best_T1)
        near_TE = left_TE.masked_fill((best_T1 - logits_TE) / size_TE > 2 * jitter, -torch.inf)
        ids.append(id_T1)
        weights.append(near_TE.softmax(-1).gather(1, id_T1))
        left_TE = left_TE.scatter(1, id_T1, -torch.inf)
    return torch.cat(ids, 1), torch.cat(weights, 1)
