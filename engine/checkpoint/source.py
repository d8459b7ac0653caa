"""Resolves a model name to files: hub id, folder, GGUF file or Python package. Torch-free: ingresses use it too."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec

from engine.checkpoint import hub
from engine.errors import ModelError

__all__ = ["ModelFiles", "resolve"]

SOURCES = (
    "a source is a hub id (org/name or org/name@revision), a folder with a config.json, a .gguf file, "
    "or package:NAME/FILE"
)


class ModelFiles(msgspec.Struct, frozen=True):
    kind: Literal["folder", "gguf"]
    path: Path  # the folder with config.json, or the .gguf file


def resolve(source: str, download: Callable[[str, str | None], Path] = hub.download) -> ModelFiles:
    """Finds a model's files, downloading them if need be. Raises ModelError, which says what was looked for."""
    if source.startswith("package:"):
        return _local(_in_package(source), source)
    path = Path(source).expanduser()
    if path.exists():
        return _local(path, source)
    if source.startswith((".", "/", "~")) or source.endswith(".gguf"):
        raise ModelError(f"{source}: no such file or folder; {SOURCES}")
    match = re.fullmatch(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?", source)
    if match is None:
        raise ModelError(f"{source!r} is neither a file nor a hub id; {SOURCES}")
    try:
        folder = download(match[1], match[2])
    except ModelError as error:
        raise ModelError(f"{error}; {SOURCES}") from error
    return _local(folder, source)


def _in_package(source: str) -> Path:
    name, _, file = source.removeprefix("package:").partition("/")
    if not name.isidentifier() or not file:
        raise ModelError(f"{source!r} is not of the form package:NAME/FILE, NAME being an importable package")
    spec = find_spec(name)  # finds a top-level package without importing it
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise ModelError(f"{source}: no package {name!r} is installed; {SOURCES}")
    for folder in folders:
        path = (Path(folder) / file).resolve()
        if path.is_relative_to(Path(folder).resolve()) and path.exists():
            return path
    raise ModelError(f"{source}: package {name!r} has no file {file!r} (looked in {', '.join(folders)})")


def _local(path: Path, source: str) -> ModelFiles:
    if path.is_file() and path.suffix == ".gguf":
        return ModelFiles("gguf", path)
    if (path / "config.json").is_file():
        return ModelFiles("folder", path)
    if path.is_dir():
        raise ModelError(f"{source}: the folder {path} has no config.json; {SOURCES}")
    raise ModelError(f"{source}: {path.name} is not a .gguf file; {SOURCES}")
