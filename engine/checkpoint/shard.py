"""A shard: the part of a weight tensor that one tensor-parallel rank reads and holds."""

import msgspec

from engine.checkpoint.arch import ModelArch
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
        works = ", ".join(str(n) for n in range(1, arch.num_heads + 1) if _fits(arch, n))
        raise ModelError(
            f"tensor_parallel_size is {size}; {arch.num_heads} heads, {arch.num_kv_heads} KV heads and"
            f" {arch.ffn_dim} inner dimensions can be divided over {works} ranks"
        )
    return msgspec.structs.replace(
        arch,
        num_heads=arch.num_heads // size,
        num_kv_heads=max(1, arch.num_kv_heads // size),
        ffn_dim=arch.ffn_dim // size,
    )


def _fits(arch: ModelArch, size: int) -> bool:
    kv_fits = arch.num_kv_heads % size == 0 or size % arch.num_kv_heads == 0
    return arch.num_heads % size == 0 and kv_fits and arch.ffn_dim % (2 * size) == 0
