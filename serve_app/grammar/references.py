"""References within a JSON schema, and everything that may hold one."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

__all__ = ["listed", "objects_in", "target_of"]


def objects_in(schema: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object in it, itself too, whether it is a schema or not."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            yield value


def listed(value: Any) -> list[Any]:
    """What stands under a keyword that wants a list: nothing if it is none."""
    return value if isinstance(value, list) else []


def target_of(root: Any, reference: str) -> Any:
    """What a reference within the document means; None for others."""
    if not reference.startswith("#"):
        return None
    value: Any = root
    for name in filter(None, reference[1:].split("/")):
        name = name.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name not in value:
            name = unquote(name)
        if isinstance(value, list):
            value = value[int(name)] if name.isdigit() and int(name) < len(value) else None
        elif isinstance(value, dict):
            value = value.get(name)
        else:
            return None
    return value
