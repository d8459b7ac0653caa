"""What latent attention is given besides queries, cache and layout: a layer's rules that never change."""

from dataclasses import dataclass

__all__ = ["LatentSpec"]


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """scale   factor on q @ k
    rank   the first dimensions of a cached row: the latent, which is key and value; the others are the rotated key
    """

    scale: float
    rank: int
