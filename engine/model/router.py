"""The router of a mixture of experts: which experts a token takes, and with what weights."""

import torch
from torch import Tensor

from engine.arch.feed_forward_spec import Router as Spec
from engine.model.layer_weights import LayerWeights
from kernels.experts.routing import RouterSpec
from kernels.rms_norm.reference import rms_norm

__all__ = ["Router"]


class Router:
    def __init__(self, spec: Spec, layer: LayerWeights) -> None:
        """Every rank has all of it."""
        num_experts, dim = spec.num_experts + spec.num_zero_experts, layer.arch.model_dim
        self._kernels, self._eps = layer.kernels, layer.arch.norm_eps
        bias_E = layer.take("mlp.gate.bias", num_experts) if spec.bias else None
        self._logits = layer.kernels.linear(layer.take("mlp.gate.weight", num_experts, dim), bias_E, torch.float32)
        correction_E = None
        name = "mlp.gate.e_score_correction_bias"
        is_lacking = spec.corrections_may_lack and not layer.weights.has(f"{layer.at}.{name}")
        if spec.correction_bias and not is_lacking:
            correction_E = layer.take(name, *layer.weights.shape(f"{layer.at}.{name}"), dtype=torch.float32).flatten()
        self._rules = RouterSpec(
            top_k=spec.experts_per_token,
            scoring=spec.scoring,
            jitter=spec.jitter,
            renormalizes=spec.renormalizes,
            correction_E=correction_E,
            corrects_logits=spec.corrects_logits,
            num_groups=spec.num_groups,
            groups_per_token=spec.groups_per_token,
            group_score=spec.group_score,
            scale=spec.scale,
        )
        self._norm_M: Tensor | None = None
        if spec.norm:
            self._norm_M = layer.take("mlp.gate.scale", dim, dtype=torch.float32) * dim**-0.5
        self._scale_E: Tensor | None = None
        if spec.expert_scales:
            self._scale_E = layer.take("mlp.gate.per_expert_scale", num_experts, dtype=torch.float32)

    def __call__(self, x_TM: Tensor) -> tuple[Tensor, Tensor]:
        """As kernels/experts/reference.py's route; experts from `num_experts` on give what they take."""
        logits_TE = self._logits(x_TM if self._norm_M is None else rms_norm(x_TM, self._norm_M, self._eps))
        if self._rules.is_plain:
            ids_TK, weights_TK = self._kernels.route(logits_TE, self._rules.top_k, self._rules.renormalizes)
        else:
            ids_TK, weights_TK = self._kernels.route_by_scores(logits_TE, self._rules)
        return ids_TK, weights_TK if self._scale_E is None else weights_TK * self._scale_E[ids_TK]
