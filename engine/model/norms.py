"""RMSNorm and LayerNorm of a decoder layer: around attention and the feed-forward, and of queries and keys."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.checkpoint.arch import ModelArch
from engine.checkpoint.shard import Shard
from engine.checkpoint.weights import Weights
from engine.parallel.tensor_parallel import TensorParallel
from kernels.kernel_set import KernelSet

__all__ = ["HeadShards", "LayerNorms", "QkNorms", "take_norm"]

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
}


def take_norm(weights: Weights, name: str, size: int, arch: ModelArch, part: Shard | None = None) -> Tensor:
    """A norm's weights in fp32, the architecture's offset added."""
    weight = weights.take(f"{name}.weight", size, dtype=torch.float32, part=part)
    return weight + arch.norm_offset if arch.norm_offset else weight


class LayerNorms:
    """[M] fp32 each; None where the model has none."""

    def __init__(self, arch: ModelArch, weights: Weights, at: str) -> None:
        self.before_attention_M, self.after_attention_M, self.before_ffn_M, self.after_ffn_M = (
            None if name is None else take_norm(weights, f"{at}.{name}", arch.model_dim, arch)
            for name in NAMES[arch.norms]
        )


@dataclass(frozen=True)
class HeadShards:
    """This rank's rows of the query projection, and of each of the key and value projections."""

    q: Shard
    kv: Shard


class QkNorms:
    """`q_norm` and `k_norm` are weights as kernels/qkv_rotary takes them, of this rank's heads."""

    def __init__(
        self,
        arch: ModelArch,
        weights: Weights,
        kernels: KernelSet,
        at: str,
        rows: HeadShards,
        tp: TensorParallel,
    ) -> None:
        self.q_norm: Tensor | None = None
        self.k_norm: Tensor | None = None
        self._kernels = kernels
        self._tp = tp
        self._widths = rows.q.stop - rows.q.start, rows.kv.stop - rows.kv.start
        self._shares: Tensor | None = None
        if not arch.qk_norm:
            return
        sizes = (arch.num_heads, arch.num_kv_heads) if arch.whole_qk_norm else (1, 1)
        self.q_norm, self.k_norm = (
            take_norm(
                weights,
                f"{at}.self_attn.{name}",
                count * arch.head_dim,
                arch,
                part if arch.whole_qk_norm else None,
            )
            for name, count, part in zip(("q_norm", "k_norm"), sizes, (rows.q, rows.kv), strict=True)
        )
        if arch.whole_qk_norm:
            # a key head that several ranks share is counted by each of them
            self._shares = 1 / (torch.tensor(self._widths, dtype=torch.float32, device=self.q_norm.device) * tp.size)

    def squares(self, qkv_TX: Tensor) -> Tensor | None:
        """[T, 2]: mean squares over the heads of all ranks, of q and of k; None where each head has its own norm."""
        if self._shares is None:
            return None
        return self._tp.all_reduce(self._kernels.square_sums(qkv_TX, *self._widths)) * self._shares
