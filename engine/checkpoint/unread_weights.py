"""Weights that some checkpoints have and that nothing reads: the model would give the same with others."""

from engine.arch.feed_forward_spec import MoE
from engine.arch.layer_spec import LayerSpec
from engine.arch.mixer_spec import LightningAttention
from engine.arch.model_arch import ModelArch
from engine.checkpoint.layer_names import layer_index

__all__ = ["is_unread"]

KV = ("k_proj", "v_proj", "k_norm", "v_norm")
DECAYS = ("slope_rate", "query_decay", "key_decay", "diagonal_decay")


def is_unread(arch: ModelArch, name: str) -> bool:
    """Of keys and values in a layer that reads those of another; of zero experts; decays of lightning attention; the
    masks of GPT-NeoX; norms of A.X K1 behind dense layers.
    """
    index = layer_index(name)
    if index is None or index >= arch.num_layers:
        return False
    match name.removeprefix(f"model.layers.{index}.").split("."):
        case ["self_attn", part, *_] if part in DECAYS:
            return isinstance(arch.layers[index].mixer, LightningAttention)
        case ["self_attn", part, *_] if part in KV:
            return arch.kv_layer(index) != index
        case ["attention", "bias" | "masked_bias"]:
            return arch.norm_parameters == "weight and bias"
        case ["post_feedforward_layernorm", "weight"] if arch.layers[index].norms == "before":
            return any(layer.norms == "around_ffn" for layer in arch.layers)
        case ["mlp", "experts", expert, *_] if expert.isdecimal():
            return _is_zero_expert(arch.layers[index], int(expert))
    return False


def _is_zero_expert(layer: LayerSpec, expert: int) -> bool:
    routers = [one.router for one in (layer.feed_forward, layer.shortcut) if isinstance(one, MoE)]
    return any(0 <= expert - router.num_experts < router.num_zero_experts for router in routers)
