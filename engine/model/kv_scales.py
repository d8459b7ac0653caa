"""KV cache scales of an FP8 cache: keys and values of a layer are divided by them, where the checkpoint has some."""

import torch
from torch import Tensor

from engine.errors import ModelError
from engine.model.layer_weights import LayerWeights

__all__ = ["take_kv_scale"]


def take_kv_scale(layer: LayerWeights, which: str, num_kv_heads: int) -> Tensor | None:
    """The scales [G] fp32 of this rank's KV heads, of which = "k" or "v"; None if there are none, which means 1.

    A checkpoint has one for all heads, or one for each.
    """
    at, weights = f"{layer.at}.self_attn", layer.weights
    # the names of llm-compressor, vLLM and ModelOpt
    for name in (f"{at}.{which}_scale", f"{at}.attn.{which}_scale", f"{at}.{which}_proj.{which}_scale"):
        if not weights.has(name):
            continue
        scale = weights.take(name, *weights.shape(name), dtype=torch.float32).flatten()
        if scale.numel() not in (1, num_kv_heads) or not (scale > 0).all():
            raise ModelError(f"{name} must be one positive number, or one for each of {num_kv_heads} KV heads")
        share = layer.tp.kv_rows(num_kv_heads, 1)
        return scale.expand(num_kv_heads)[share.start : share.stop].contiguous()
    return None
