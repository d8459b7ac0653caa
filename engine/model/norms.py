"""Norms of a decoder layer: around attention and the feed-forward, and of queries and keys."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.arch.feed_forward_spec import MoE
from engine.arch.layer_spec import LayerSpec
from engine.arch.mixer_spec import SelfAttention
from engine.checkpoint.shard import Shard
from engine.model.layer_weights import LayerWeights

__all__ = ["HeadShards", "LayerNorms", "QkNorms"]

# before attention, after it, before the feed-forward block, after it
NAMES = {
    "before": ("input_layernorm", None, "post_attention_layernorm", None),
    "after": (None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
    "around": (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
    "around_ffn": ("input_layernorm", None, "post_attention_layernorm", "post_feedforward_layernorm"),
    "parallel": ("input_layernorm", None, None, None),
    "parallel_apart": ("input_layernorm", None, "post_attention_layernorm", None),
    "single": ("norm", None, None, None),
}


class LayerNorms:
    """Weights, and biases of those before a part, [M] fp32 each; None where the model has none."""

    def __init__(self, spec: LayerSpec, layer: LayerWeights) -> None:
        before_attention, after_attention, before_ffn, after_ffn = NAMES[spec.norms]
        if isinstance(spec.feed_forward, MoE) and spec.feed_forward.norms_apart:
            before_ffn = None  # the feed-forward has its own
        self.before_attention_M, self.after_attention_M, self.before_ffn_M, self.after_ffn_M = (
            None if name is None else layer.take_norm(name, layer.arch.model_dim)
            for name in (before_attention, after_attention, before_ffn, after_ffn)
        )
        self.before_attention_bias_M, self.before_ffn_bias_M = (
            layer.take(f"{name}.bias", layer.arch.model_dim, dtype=torch.float32)
            if name is not None and layer.arch.norm_parameters == "weight and bias"
            else None
            for name in (before_attention, before_ffn)
        )


@dataclass(frozen=True)
class HeadShards:
    """This rank's rows of the query projection, and of each of the key and value projections."""

    q: Shard
    kv: Shard


class QkNorms:
    """`q_norm` and `k_norm` are weights as kernels/qkv_rotary takes them, of this rank's heads.

    `rotated_q_D`: the norm's weights of queries and of keys, multiplied, where they apply after the rotary embedding:
    the rotation keeps what the norm divides by, and a product of query and key is the same if the query has both.
    """

    def __init__(self, spec: SelfAttention, layer: LayerWeights, rows: HeadShards) -> None:
        self.q_norm: Tensor | None = None
        self.k_norm: Tensor | None = None
        self.rotated_q_D: Tensor | None = None
        self._kernels, self._tp = layer.kernels, layer.tp
        self._widths = rows.q.stop - rows.q.start, rows.kv.stop - rows.kv.start
        self._shares: Tensor | None = None
        if not spec.qk_norm:
            return
        head_dim, device = spec.head_dim, layer.weights.device
        if spec.qk_norm in ("weightless", "rotated"):
            self.q_norm = self.k_norm = torch.ones(head_dim, device=device)
        if spec.qk_norm == "rotated":
            q_norm_D, k_norm_D = (layer.take_norm(f"self_attn.{one}_norm", head_dim) for one in "qk")
            self.rotated_q_D = (q_norm_D * k_norm_D).to(layer.weights.dtype)
        if spec.qk_norm not in ("head", "whole"):
            return
        if spec.kv_from is not None:
            self.q_norm = layer.take_norm("self_attn.q_norm", head_dim)
            return
        is_whole = spec.qk_norm == "whole"
        sizes = (spec.num_heads, spec.num_kv_heads) if is_whole else (1, 1)
        self.q_norm, self.k_norm = (
            layer.take_norm(f"self_attn.{name}", count * head_dim, part if is_whole else None)
            for name, count, part in zip(("q_norm", "k_norm"), sizes, (rows.q, rows.kv), strict=True)
        )
        if is_whole:
            # a key head that several ranks share is counted by each of them
            self._shares = 1 / (torch.tensor(self._widths, dtype=torch.float32, device=device) * layer.tp.size)

    def squares(self, qkv_TX: Tensor) -> Tensor | None:
        """[T, 2]: mean squares over the heads of all ranks, of q and of k; None where each head has its own norm."""
        if self._shares is None:
            return None
        return self._tp.all_reduce(self._kernels.square_sums(qkv_TX, *self._widths)) * self._shares
