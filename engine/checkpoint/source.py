"""Resolves a model name to files: hub id, folder, GGUF file or Python package. Torch-free, for ingresses too."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from engine.checkpoint import hub as hugging_face
from engine.errors import ModelError

__all__ = ["Hub", "ModelFiles", "resolve"]

SOURCES = (
    "a source is a hub id (org/name or org/name@revision), one of a hub's .gguf files by its quantization "
    "(org/name:Q4_K_M), a folder with a config.json, a .gguf file, or package:NAME/FILE"
)
HUB_ID = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?(?::([\w.-]+))?")


class Hub(Protocol):
    """A model hub; engine/checkpoint/hub.py is Hugging Face's. Both calls raise ModelError."""

    def download(self, repo_id: str, revision: str | None, *, weights: bool) -> Path:
        """A folder with config.json and tokenizer, and with safetensors if `weights`."""

    def download_gguf(self, repo_id: str, revision: str | None, quantization: str, *, weights: bool) -> Path:
        """A .gguf file; without `weights` possibly its metadata alone."""


class ModelFiles(msgspec.Struct, frozen=True):
    kind: Literal["folder", "gguf"]
    path: Path  # the folder with config.json, or the .gguf file


def resolve(source: str, hub: Hub = hugging_face, *, weights: bool = True) -> ModelFiles:
    """Finds a model's files, downloading what is missing. Raises ModelError, which says what was looked for.

    Without `weights` a hub's model is its configuration and tokenizer alone, a .gguf file possibly its head.
    """
    if source.startswith("package:"):
        return _local(_in_package(source), source)
    path = Path(source).expanduser()
    if path.exists():
        return _local(path, source)
    if source.startswith((".", "/", "~")) or source.endswith(".gguf"):
        raise ModelError(f"{source}: no such file or folder; {SOURCES}")
    match = HUB_ID.fullmatch(source)
    if match is None:
        raise ModelError(f"{source!r} is neither a file nor a hub id; {SOURCES}")
    repo_id, revision, quantization = match.groups()
    try:
        if quantization is not None:
            return _local(hub.download_gguf(repo_id, revision, quantization, weights=weights), source)
        folder = hub.download(repo_id, revision, weights=weights)
    except ModelError as error:
        raise ModelError(f"{error}; {SOURCES}") from error
    return _local(folder, source)


def _in_package(source: str) -> Path:
    name, _, file = source.removeprefix("package:").partition("/")
    if not name.isidentifier() or not file:
        raise ModelError(f"{source!r} is not of the form package:NAME/FILE, NAME being an importable package")
    spec = find_spec(name)  # find_spec does not import a top-level package
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
