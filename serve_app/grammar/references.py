"""References within a JSON schema."""

from typing import Any

__all__ = ["target_of"]


def target_of(root: Any, reference: str) -> Any:
    """What a reference within the document means; None for others."""
    if not reference.startswith("#"):
        return None
    value: Any = root
    for name in filter(None, reference[1:].split("/")):
        name = name.replace("~1", "/").replace("~0", "~")
        if isinstance(value, list):
            value = value[int(name)] if name.isdigit() and int(name) < len(value) else None
        elif isinstance(value, dict):
            value = value.get(name)
        else:
            return None
    return value
