"""A shard: the part of a weight tensor that one tensor-parallel rank reads and holds."""

import msgspec

from engine.arch.layer_spec import LayerSpec, MoE, SelfAttention
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["Shard", "shard_arch"]


class Shard(msgspec.Struct, frozen=True):
    """[start, stop) of a tensor's dimension `dim`."""

    dim: int
    start: int
    stop: int


def shard_arch(arch: ModelArch, size: int) -> ModelArch:
    """The architecture of one of `size` ranks. Raises ModelError, which names the sizes that work."""
    if not _fits(arch, size):
        works = ", ".join(str(n) for n in range(1, arch.layers[0].mixer.num_heads + 1) if _fits(arch, n))
        sizes = "; ".join(dict.fromkeys(map(_sizes, arch.layers)))
        raise ModelError(f"tensor_parallel_size is {size}; {sizes} can be divided over {works} ranks")
    return msgspec.structs.replace(arch, layers=tuple(_of_one_rank(layer, size) for layer in arch.layers))


def _of_one_rank(layer: LayerSpec, size: int) -> LayerSpec:
    mixer, ffn = layer.mixer, layer.feed_forward
    change = msgspec.structs.replace
    heads = {"num_heads": mixer.num_heads // size}
    if isinstance(mixer, SelfAttention):
        heads["num_kv_heads"] = max(1, mixer.num_kv_heads // size)
    mixer = change(mixer, **heads)
    if isinstance(ffn, MoE) and ffn.shared is not None:
        ffn = change(ffn, shared=change(ffn.shared, dim=ffn.shared.dim // size))
    return change(layer, mixer=mixer, feed_forward=change(ffn, dim=ffn.dim // size))


def _sizes(layer: LayerSpec) -> str:
    mixer = layer.mixer
    dims = " and ".join(map(str, _inner_dims(layer)))
    kv_heads = f", {mixer.num_kv_heads} KV heads" if isinstance(mixer, SelfAttention) else ""
    return f"{mixer.num_heads} heads{kv_heads} and {dims} inner dimensions"


def _fits(arch: ModelArch, size: int) -> bool:
    return all(_layer_fits(layer, size) for layer in arch.layers)


def _layer_fits(layer: LayerSpec, size: int) -> bool:
    num_kv_heads = layer.mixer.num_kv_heads if isinstance(layer.mixer, SelfAttention) else 1
    kv_fits = num_kv_heads % size == 0 or size % num_kv_heads == 0
    return layer.mixer.num_heads % size == 0 and kv_fits and all(dim % (2 * size) == 0 for dim in _inner_dims(layer))


def _inner_dims(layer: LayerSpec) -> list[int]:
    ffn = layer.feed_forward
    shared = ffn.shared if isinstance(ffn, MoE) else None
    return [ffn.dim] if shared is None else [ffn.dim, shared.dim]
