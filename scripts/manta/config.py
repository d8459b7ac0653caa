"""`manta config`: prints the effective config of a model or file, or explains a key."""

import argparse
import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from configs.load import ConfigError
from scripts.config_table import ConfigKey, config_keys
from scripts.manta.deployment import DeploymentError, deployment_of, effective, is_config
from scripts.manta.options import add_config_options, find_keys, parse, settings_of, spellings_of

__all__ = ["main"]

DESCRIPTION = """\
Prints what would be served, with every key and its default, as `serve deploy` takes it; or explains a key.

    manta config                                   the quickstart
    manta config configs/two_models.yaml           a config
    manta config Qwen/Qwen3-0.6B --num-replicas 2 > my.yaml
    manta config block_size                        what a key means, its unit, its default
    manta config configs/two_models.yaml block_size     ... and its value there

API keys are printed as hashes, which do as well; a wire.secret is not printed."""


def main(arguments: Sequence[str]) -> None:
    parser = _parser()
    options = parse(parser, arguments)
    source, name = _source_and_key(options.source, options.key)
    keys = find_keys(name) if name is not None else []
    if name is not None and not keys:
        parser.error(f"argument KEY: there is no config key {name!r}{_nearest(name)}")
    if keys and options.source == name and not settings_of(options):
        print("\n\n".join("\n".join(_explained(key)) for key in keys))
        return
    try:
        document = effective(deployment_of(source, settings_of(options)))
    except (ConfigError, DeploymentError) as error:
        parser.error(str(error))
    if keys:
        print("\n\n".join("\n".join(_explained(key, document)) for key in keys))
    else:
        _print(document)


def _source_and_key(first: str | None, second: str | None) -> tuple[str | None, str | None]:
    """A single word that names a key is a key; else the first one is a model or a config."""
    if first is not None and second is None and (find_keys(first) or _looks_like_a_key(first)):
        return None, first
    return first, second


def _looks_like_a_key(word: str) -> bool:
    """Whether a word is no hub id (which has a slash), file or folder."""
    return re.fullmatch(r"[\w.-]+", word) is not None and not is_config(word) and not Path(word).exists()


def _nearest(name: str) -> str:
    parts = {part: key for key in config_keys() for part in (key.path[-1], ".".join(key.path))}
    near = difflib.get_close_matches(name.replace("-", "_"), parts, n=1)
    return f"; did you mean {near[0]}?" if near else " (`manta config` prints all)"


def _explained(key: ConfigKey, document: Mapping[str, Any] | None = None) -> Iterator[str]:
    yield key.name
    yield f"  {key.meaning}"
    yield f"  default: {key.default}"
    yield f"  accepts: {key.accepted}"
    yield f"  option:  --{spellings_of(config_keys())[key][0]}"
    for value in _values(key, document) if document is not None else ():
        yield f"  here:    {value}"


def _values(key: ConfigKey, document: Mapping[str, Any]) -> Iterator[str]:
    """The values of the key; of each model if it is a model's key."""
    for application in document["applications"]:
        args = application["args"]
        for at in args["models"] if key.is_of_a_model else [args]:
            owner = f" ({_name(at)})" if key.is_of_a_model and len(args["models"]) > 1 else ""
            for part in key.path:
                at = at.get(part) if isinstance(at, Mapping) else None
            yield f"{'unset' if at is None else at}{owner}"


def _name(model: Mapping[str, Any]) -> str:
    names = model.get("served_model_name") or model["model"]
    return names if isinstance(names, str) else str(names[0])


def _print(document: dict[str, Any]) -> None:
    for application in document["applications"]:
        wire = application["args"]["wire"]
        if wire.get("secret") is not None:
            print("manta config: wire.secret is set, and left out here", file=sys.stderr)
            wire["secret"] = None
    yaml.safe_dump(document, sys.stdout, sort_keys=False, allow_unicode=True, width=120)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="manta config",
        usage="manta config [MODEL|CONFIG] [KEY] [options]",
        description=DESCRIPTION,
        epilog="options are those of `manta serve`, which lists them: every key of the config is one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", nargs="?", metavar="MODEL|CONFIG", help="as `manta serve` takes it")
    parser.add_argument("key", nargs="?", metavar="KEY", help="a config key, or the end of its dotted name")
    add_config_options(parser)
    return parser
