"""The check of sizes that specs have in common."""

import msgspec

__all__ = ["check_sizes"]


def check_sizes(spec: msgspec.Struct, *names: str) -> None:
    for name in names:
        if not isinstance(value := getattr(spec, name), int) or value < 1:
            raise ValueError(f"{name} is {value!r}")
