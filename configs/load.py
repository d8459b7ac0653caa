"""Loads and validates a configuration from a mapping (the `args` of a Serve application) or a file."""

import difflib
import re
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from configs.renamed import OTHER_NAMES
from configs.schema import Config

__all__ = ["ConfigError", "convert", "load_args", "load_file"]

T = TypeVar("T")


class ConfigError(Exception):
    """A wrong config. The message starts with the dotted key."""


def load_args(args: dict[str, Any]) -> Config:
    """The config in `args`. Raises ConfigError with the dotted key, what is wrong and the nearest right key."""
    config = convert(args, Config)
    _check_names(config)
    return config


def convert(value: Any, kind: type[T]) -> T:
    """A struct from plain YAML values. Raises ConfigError like `load_args`."""
    _check_keys(kind, value, "")
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(_dotted(str(error))) from None


def load_file(path: str | Path) -> Config:
    """The config of the first application in a `serve deploy` file."""
    document = yaml.safe_load(Path(path).read_text())
    try:
        args = document["applications"][0]["args"]
    except (TypeError, KeyError, IndexError):
        raise ConfigError(f"applications.0.args: not found in {path}") from None
    return load_args(args)


def _check_keys(kind: Any, value: Any, at: str) -> None:
    """Raises for the first key of `value`, at any depth, that `kind` does not have."""
    for option in typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,):
        origin = typing.get_origin(option)
        if origin is typing.Annotated:
            _check_keys(typing.get_args(option)[0], value, at)
        elif origin is tuple and isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                _check_keys(typing.get_args(option)[0], item, f"{at}{index}.")
        elif isinstance(option, type) and issubclass(option, msgspec.Struct) and isinstance(value, dict):
            kinds = typing.get_type_hints(option, include_extras=True)
            for key, item in value.items():
                if key not in kinds:
                    raise ConfigError(f"{at}{key}: no such key{_right_name(str(key), kinds)}")
                _check_keys(kinds[key], item, f"{at}{key}.")


def _right_name(key: str, known: dict[str, Any]) -> str:
    """A suggestion: a key of the same level that is spelled alike, or the key of another name for the same thing."""
    plain = key.replace("-", "_")
    if plain in known:
        return f"; did you mean {plain}?"
    if plain in OTHER_NAMES:
        return f"; here it is {OTHER_NAMES[plain]}"
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(known)}"


def _dotted(message: str) -> str:
    """Puts the key first, where msgspec writes "… - at `$.models[0].name`"."""
    found = re.fullmatch(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?", message, re.DOTALL)
    assert found is not None
    path = re.sub(r"\[(\d+|\.\.\.)\]", r".\1", found["path"] or "").strip(".")
    return f"{path or 'args'}: {found['what']}"


def _check_names(config: Config) -> None:
    seen: set[str] = set()
    for index, model in enumerate(config.models):
        for name in (model.name, *model.aliases):
            if name in seen:
                raise ConfigError(f"models.{index}.served_model_name: {name!r} names two models")
            seen.add(name)
    wire = config.wire
    if not wire.heartbeat_s < wire.suspect_s < wire.dead_s:
        raise ConfigError("wire.suspect_s: must lie between wire.heartbeat_s and wire.dead_s")
