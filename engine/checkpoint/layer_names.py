"""The layer of a tensor, by its name."""

__all__ = ["layer_index"]


def layer_index(name: str) -> int | None:
    """N of model.layers.N.*; None for tensors of no layer."""
    prefix, _, rest = name.partition("layers.")
    number = rest.partition(".")[0]
    return int(number) if prefix == "model." and number.isdecimal() else None
