"""$ref: resolves references within a JSON schema."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from serve_app.grammar.schema_walk import Path

__all__ = ["listed", "objects_in", "path_of", "references_of", "self_contained", "target_of"]


def objects_in(schema: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object in it, itself included, whether it is a schema or not."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            yield value


def listed(value: Any) -> list[Any]:
    """The value of a keyword that takes a list; [] if it is none."""
    return value if isinstance(value, list) else []


def target_of(root: Any, reference: str) -> Any:
    """The target of a reference within the document; None for other references."""
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


def references_of(root: Any, schema: Any) -> list[str]:
    """The references of a schema, transitively."""
    found: dict[str, None] = {}
    waiting = [schema]
    while waiting:
        for one in objects_in(waiting.pop()):
            reference = one.get("$ref")
            if isinstance(reference, str) and reference not in found:
                found[reference] = None
                waiting.append(target_of(root, reference))
    return list(found)


def self_contained(root: Any, schema: dict[str, Any], references: list[str]) -> dict[str, Any]:
    """A schema with its references' targets inside it."""
    plain = {key: value for key, value in schema.items() if key not in ("$defs", "definitions")}
    if not references:
        return plain
    names = {reference: f"#/$defs/{index}" for index, reference in enumerate(references)}
    defined = {str(index): target_of(root, reference) for index, reference in enumerate(references)}
    return {**_renamed(plain, names), "$defs": _renamed(defined, names)}


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_renamed(one, names) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: names.get(one, one) if key == "$ref" and isinstance(one, str) else _renamed(one, names)
        for key, one in value.items()
    }


def path_of(reference: str) -> Path:
    return tuple(name.replace("~1", "/").replace("~0", "~") for name in reference[1:].split("/") if name)
