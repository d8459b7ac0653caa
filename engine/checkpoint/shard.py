"""A shard: the part of a weight tensor that one tensor-parallel rank reads and holds."""

import msgspec

from engine.arch.feed_forward_spec import FeedForward, MoE
from engine.arch.layer_spec import LayerSpec
from engine.arch.mixer_spec import (
    GatedDeltaNet,
    KimiDeltaAttention,
    LatentAttention,
    LightningAttention,
    Mamba2,
    Mixer,
    ParallelHeads,
    SelfAttention,
    ShortConv,
)
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["Shard", "shard_arch"]


MOST_RANKS = 256  # that an error names
NAMES = {
    "num_heads": "heads",
    "num_kv_heads": "KV heads",
    "num_k_heads": "key heads",
    "num_v_heads": "value heads",
    "num_groups": "groups",
    "mamba_num_heads": "Mamba-2 heads",
    "mamba_num_groups": "groups",
    "dim": "channels",
}


class Shard(msgspec.Struct, frozen=True):
    """[start, stop) of a tensor's dimension `dim`."""

    dim: int
    start: int
    stop: int


def shard_arch(arch: ModelArch, size: int) -> ModelArch:
    """The architecture of one of `size` ranks. Raises ModelError, which names the sizes that work."""
    if not _fits(arch, size):
        works = ", ".join(str(n) for n in range(1, MOST_RANKS + 1) if _fits(arch, n))
        sizes = "; ".join(dict.fromkeys(map(_sizes, arch.layers)))
        raise ModelError(f"tensor_parallel_size is {size}; {sizes} can be divided over {works} ranks")
    return msgspec.structs.replace(arch, layers=tuple(_of_one_rank(layer, size) for layer in arch.layers))


def _of_one_rank(layer: LayerSpec, size: int) -> LayerSpec:
    mixer = None if layer.mixer is None else _mixer_of_one_rank(layer.mixer, size)
    ffn, shortcut = (
        None if one is None else _feed_forward_of_one_rank(one, size) for one in (layer.feed_forward, layer.shortcut)
    )
    assert shortcut is None or isinstance(shortcut, MoE)
    return msgspec.structs.replace(layer, mixer=mixer, feed_forward=ffn, shortcut=shortcut)


def _feed_forward_of_one_rank(ffn: FeedForward, size: int) -> FeedForward:
    change = msgspec.structs.replace
    if isinstance(ffn, MoE) and ffn.shared is not None:
        ffn = change(ffn, shared=change(ffn.shared, dim=ffn.shared.dim // size))
    return change(ffn, dim=ffn.dim // size)


def _mixer_of_one_rank(mixer: Mixer, size: int) -> Mixer:
    if isinstance(mixer, ParallelHeads):
        attention, mamba = (_mixer_of_one_rank(one, size) for one in (mixer.attention, mixer.mamba))
        assert isinstance(attention, SelfAttention) and isinstance(mamba, Mamba2)
        return ParallelHeads(attention=attention, mamba=mamba)
    divided = {name: max(1, count // size) for name, count in _divided(mixer).items()}
    return msgspec.structs.replace(mixer, **divided)


def _divided(mixer: Mixer | None) -> dict[str, int]:
    """What ranks divide between them."""
    match mixer:
        case None:
            return {}
        case SelfAttention():
            return {"num_heads": mixer.num_heads, "num_kv_heads": mixer.num_kv_heads}
        case LatentAttention() | LightningAttention() | KimiDeltaAttention():
            return {"num_heads": mixer.num_heads}
        case GatedDeltaNet():
            return {"num_k_heads": mixer.num_k_heads, "num_v_heads": mixer.num_v_heads}
        case Mamba2():
            return {"num_heads": mixer.num_heads, "num_groups": mixer.num_groups}
        case ShortConv():
            return {"dim": mixer.dim}
        case ParallelHeads():
            mamba = {f"mamba_{name}": count for name, count in _divided(mixer.mamba).items()}
            return {**_divided(mixer.attention), **mamba}


def _sizes(layer: LayerSpec) -> str:
    counts = [f"{count} {NAMES[name]}" for name, count in _divided(layer.mixer).items()]
    counts += [f"{dim} inner dimensions" for dim in _inner_dims(layer)]
    return " and ".join(filter(None, (", ".join(counts[:-1]), counts[-1])))


def _fits(arch: ModelArch, size: int) -> bool:
    return all(_layer_fits(layer, size) for layer in arch.layers)


def _layer_fits(layer: LayerSpec, size: int) -> bool:
    counts = _divided(layer.mixer)
    num_kv_heads = counts.pop("num_kv_heads", 1)
    kv_fits = num_kv_heads % size == 0 or size % num_kv_heads == 0
    heads_fit = all(count % size == 0 for count in counts.values())
    return heads_fit and kv_fits and all(dim % (2 * size) == 0 for dim in _inner_dims(layer))


def _inner_dims(layer: LayerSpec) -> list[int]:
    ffns = [one for one in (layer.feed_forward, layer.shortcut) if one is not None]
    shared = [one.shared for one in ffns if isinstance(one, MoE) and one.shared is not None]
    return [one.dim for one in (*ffns, *shared)]
