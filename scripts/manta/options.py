"""Command-line options of the config schema: each key is an option under its own name, with dashes."""

import argparse
import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec import inspect

from configs.renamed import OTHER_NAMES
from scripts.config_table import ConfigKey, config_keys

__all__ = ["Settings", "add_config_options", "find_keys", "parse", "settings_of", "spellings_of"]

Settings = list[tuple[ConfigKey, Any]]  # (key, value) of each option that was given


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """An option for every config key, in a group for each section of the config; `settings_of` reads them."""
    groups: dict[str, Any] = {}
    for key, spellings in spellings_of(config_keys()).items():
        section = ".".join(key.path[:-1]) or "model"
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        _add(groups[section], key, [f"--{spelling}" for spelling in spellings])


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parses the options. An unknown one ends the program, with the nearest one named."""
    options, rest = parser.parse_known_args(words)
    if rest:
        name = rest[0].partition("=")[0]
        known = [spelling for action in parser._actions for spelling in action.option_strings]
        elsewhere = OTHER_NAMES.get(name.lstrip("-").replace("-", "_"))
        near = difflib.get_close_matches(name, known, n=1) if name.startswith("-") else []
        hint = f"; did you mean {near[0]}?" if near else f" (see {parser.prog} --help)"
        if elsewhere is not None:
            hint = f"; here it is {elsewhere}"
        parser.error(f"argument {name}: {'no such option' if name.startswith('-') else 'one too many'}{hint}")
    return options


def settings_of(options: argparse.Namespace) -> Settings:
    """The keys that were given as options, with their values, in the order of the schema."""
    given = vars(options)
    return [(key, given[key.name]) for key in config_keys() if key.name in given]


def spellings_of(keys: Iterable[ConfigKey]) -> dict[ConfigKey, list[str]]:
    """Each key's option names, without leading dashes, the shortest first.

    Every suffix of a dotted name is one: `cache.block-size`, `block-size`. Of two keys with the same suffix the model's
    gets it, and among those the less nested one.
    """
    keys = list(keys)
    found: dict[ConfigKey, list[str]] = {}
    claimed: set[str] = set()
    for key in sorted(keys, key=lambda key: (not key.is_of_a_model, len(key.path))):
        parts = [part.replace("_", "-") for part in key.path]
        ends = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
        found[key] = [end for end in ends if end not in claimed]
        claimed.update(ends)
    return {key: found[key] for key in keys}


def find_keys(name: str) -> list[ConfigKey]:
    """The keys whose dotted name equals or ends with a name, in either spelling. Empty if there is none."""
    wanted = name.removeprefix("--").removeprefix("models[].").replace("-", "_").split(".")
    return [key for key in config_keys() if list(key.path[-len(wanted) :]) == wanted]


def _add(group: Any, key: ConfigKey, spellings: list[str]) -> None:
    """Adds the option; the help shows only its shortest spelling."""
    default = "" if key.default == "needed" else f" ({key.default})"
    helps = [key.meaning.replace("%", "%%") + default, *[argparse.SUPPRESS] * (len(spellings) - 1)]
    shape: dict[str, Any] = {
        "dest": key.name,
        "default": argparse.SUPPRESS,
        "type": _reader(key),
        "metavar": _metavar(key),
    }
    if _is_switch(key):  # without a value it means true
        shape |= {"nargs": "?", "const": True}
    for spelling, text in zip(spellings, helps, strict=True):
        group.add_argument(spelling, help=text, **shape)
        if _is_switch(key):
            negated = f"--no-{spelling.removeprefix('--')}"
            group.add_argument(
                negated, dest=key.name, action="store_false", default=argparse.SUPPRESS, help=argparse.SUPPRESS
            )


def _reader(key: ConfigKey) -> Callable[[str], Any]:
    """Parses an option's text into the key's value; an error says what is accepted."""

    def read(text: str) -> Any:
        value = [part for part in text.split(",") if part] if _is_list(key) else text
        try:
            return msgspec.convert(value, key.type, strict=False)
        except msgspec.ValidationError:
            raise argparse.ArgumentTypeError(f"must be {key.accepted}, got {text!r}") from None

    return read


def _kinds(key: ConfigKey) -> tuple[inspect.Type, ...]:
    info = inspect.type_info(key.type)
    return info.types if isinstance(info, inspect.UnionType) else (info,)


def _is_switch(key: ConfigKey) -> bool:
    return any(isinstance(kind, inspect.BoolType) for kind in _kinds(key))


def _is_list(key: ConfigKey) -> bool:
    return any(isinstance(kind, inspect.VarTupleType) for kind in _kinds(key))


def _metavar(key: ConfigKey) -> str:
    for kind in _kinds(key):
        match kind:
            case inspect.BoolType():
                return "true|false"
            case inspect.LiteralType():
                return "{" + ",".join(map(str, kind.values)) + "}"
            case inspect.IntType():
                return "N"
            case inspect.FloatType():
                return "X"
            case inspect.VarTupleType():
                return "A,B"
    return "TEXT"
