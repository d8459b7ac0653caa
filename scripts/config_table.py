"""Config keys with default, accepted values and meaning, read from configs/schema.py: python -m scripts.config_table
prints the table of configs/README.md.
"""

import re
import typing
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import inspect

from configs import schema

__all__ = ["ConfigKey", "config_keys", "rows"]


class ConfigKey(msgspec.Struct, frozen=True):
    """One key of the config."""

    name: str  # dotted; `models[]` stands for each entry of the list
    type: object  # its annotation
    default: str  # as the table shows it: "needed", "unset" or the value
    meaning: str  # with its unit

    @property
    def path(self) -> tuple[str, ...]:
        """The parts of its dotted name; those of a model's keys start below `models[]`."""
        return tuple(self.name.removeprefix("models[].").split("."))

    @property
    def is_of_a_model(self) -> bool:
        return self.name.startswith("models[].")

    @property
    def accepted(self) -> str:
        """The accepted values, in words."""
        return _accepted(inspect.type_info(self.type))


def config_keys() -> tuple[ConfigKey, ...]:
    """All config keys, in the order of the schema."""
    return tuple(_keys(schema.Config, "", _comments(Path(schema.__file__))))


def rows() -> Iterator[str]:
    """One row of Markdown for each key: its dotted name, its default, what it does."""
    yield "| key | default | what it does |"
    yield "|---|---|---|"
    for key in config_keys():
        default = key.default if key.default in ("needed", "unset") else f"`{key.default}`"
        yield f"| `{key.name}` | {default} | {key.meaning} |"


def _keys(owner: type, prefix: str, comments: dict[tuple[str, str], str]) -> Iterator[ConfigKey]:
    for field in msgspec.structs.fields(owner):
        below = [part for part in _parts(field.type) if isinstance(part, type) and issubclass(part, msgspec.Struct)]
        if below:
            many = "[]" if typing.get_origin(_bare(field.type)) is tuple else ""
            yield from _keys(below[0], f"{prefix}{field.name}{many}.", comments)
        else:
            meaning = comments[owner.__name__, field.name]
            yield ConfigKey(prefix + field.name, field.type, _default(field), meaning)


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
    return "[]" if value == () else str(value).lower() if isinstance(value, bool) else str(value)


def _accepted(info: inspect.Type) -> str:
    match info:
        case inspect.UnionType():
            return " or ".join(_accepted(one) for one in info.types if not isinstance(one, inspect.NoneType))
        case inspect.LiteralType():
            return ", ".join(map(str, info.values))
        case inspect.BoolType():
            return "true, false"
        case inspect.IntType():
            return "an integer" + _bounds(info)
        case inspect.FloatType():
            return "a number" + _bounds(info)
        case inspect.VarTupleType():
            return "a list of " + _accepted(info.item_type).removeprefix("a ")
        case inspect.StrType():
            return "text" if info.max_length is None else f"text of at most {info.max_length} characters"
    return type(info).__name__


def _bounds(info: inspect.IntType | inspect.FloatType) -> str:
    signs = {"of at least": info.ge, "above": info.gt, "of at most": info.le, "below": info.lt}
    bounds = [f"{words} {value:g}" for words, value in signs.items() if value is not None]
    return " " + " and ".join(bounds) if bounds else ""


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
