"""Prints the table of configs/README.md, all config keys from configs/schema.py: python -m scripts.config_table."""

import re
import typing
from collections.abc import Iterator
from pathlib import Path

import msgspec

from configs import schema

__all__ = ["rows"]


def rows() -> Iterator[str]:
    """One row of Markdown for each key: its dotted name, its default, what it does."""
    comments = _comments(Path(schema.__file__))
    yield "| key | default | what it does |"
    yield "|---|---|---|"
    for name, field, owner in _fields(schema.Config, ""):
        yield f"| `{name}` | {_default(field)} | {comments[owner, field.name]} |"


def _fields(owner: type, prefix: str) -> Iterator[tuple[str, msgspec.structs.FieldInfo, str]]:
    for field in msgspec.structs.fields(owner):
        below = [part for part in _parts(field.type) if isinstance(part, type) and issubclass(part, msgspec.Struct)]
        if below:
            many = "[]" if typing.get_origin(_bare(field.type)) is tuple else ""
            yield from _fields(below[0], f"{prefix}{field.name}{many}.")
        else:
            yield prefix + field.name, field, owner.__name__


def _parts(kind: object) -> Iterator[object]:
    yield kind
    for part in typing.get_args(kind):
        yield from _parts(part)


def _bare(kind: object) -> object:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "needed"
    if field.default is None:
        return "unset"
    value = field.default if field.default is not msgspec.NODEFAULT else ()
    return "`[]`" if value == () else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _comments(path: Path) -> dict[tuple[str, str], str]:
    """(class, field) -> the comment behind the field."""
    found = {}
    owner = ""
    for line in path.read_text().splitlines():
        if match := re.match(r"class (\w+)\(", line):
            owner = match[1]
        elif match := re.match(r"    (\w+): .*?# (.*)$", line):
            found[owner, match[1]] = match[2]
    return found


if __name__ == "__main__":
    print("\n".join(rows()))
