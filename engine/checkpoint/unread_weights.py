"""Key and value weights of layers that read the keys and values of another: some checkpoints have them, nobody reads
them."""

from engine.arch.model_arch import ModelArch
from engine.checkpoint.layer_names import layer_index

__all__ = ["is_unread_kv"]

PARTS = ("k_proj", "v_proj", "k_norm", "v_norm")


def is_unread_kv(arch: ModelArch, name: str) -> bool:
    index = layer_index(name)
    if index is None or index >= arch.num_layers or arch.kv_layer(index) == index:
        return False
    return name.startswith(tuple(f"model.layers.{index}.self_attn.{part}." for part in PARTS))
