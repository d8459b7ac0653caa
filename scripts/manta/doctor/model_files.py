"""Reads a model's files without loading them: heads, sizes, the index, hashes that the hub's cache names."""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from engine.checkpoint.gguf_file import read_index
from engine.checkpoint.source import Hub, resolve
from engine.errors import ModelError
from scripts.manta.doctor.facts import ModelFile, ModelFiles
from scripts.manta.doctor.hub_cache import NotCachedError, hash_of

__all__ = ["model_files", "safetensors_error"]

INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000  # as the format has it
HASHED_BYTES = 1 << 30  # of a model, unless all is asked for: some seconds
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "tiktoken.model", "vocab.json", "vocab.txt")


def model_files(source: str, hub: Hub, *, verify: bool) -> ModelFiles:
    """With `verify` files of any size are hashed."""
    try:
        found = resolve(source, hub)
    except ModelError as error:
        if isinstance(error.__cause__, NotCachedError):
            return ModelFiles(source=source, is_in_hub=True, error=str(error.__cause__))
        return ModelFiles(source=source, error=str(error))
    if found.kind == "gguf":
        files, has_tokenizer = [_file(found.path, _gguf_error(found.path))], True
    else:
        files = list(_of_folder(found.path))
        has_tokenizer = any((found.path / name).exists() for name in TOKENIZERS)
    folder = found.path if found.kind == "folder" else found.path.parent
    hashed = tuple(_hashed(files, folder, HASHED_BYTES if not verify else None))
    return ModelFiles(source=source, path=str(found.path), files=hashed, has_tokenizer=has_tokenizer)


def safetensors_error(path: Path, expected: set[str] | None = None) -> str:
    """What is wrong with a file: its head, its size, or tensors that the index has there; "" if nothing is.

    size of the head: 8 bytes, little-endian | head: JSON | tensors, whose data_offsets begin behind the head
    """
    try:
        num_bytes = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                return f"truncated: {num_bytes} bytes"
            (length,) = struct.unpack("<Q", start)
            if not 2 <= length <= MAX_HEADER_BYTES:
                return f"not a .safetensors file: its head would have {length} bytes"
            header = json.loads(file.read(length)) if length <= num_bytes - 8 else None
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError:
        return "not a .safetensors file: its head is no JSON"
    if header is None:
        return f"truncated: {num_bytes} bytes, its head alone has {length}"
    return _size_error(header, num_bytes - 8 - length) or _names_error(header, expected or set())


def _size_error(header: Any, num_bytes: int) -> str:
    try:
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        wanted = max(ends, default=0)
    except (AttributeError, KeyError, TypeError, IndexError):
        return "not a .safetensors file: its head has no offsets"
    if num_bytes < wanted:
        return f"truncated: {wanted - num_bytes:,} of {wanted:,} bytes of tensors are missing"
    return f"{num_bytes - wanted:,} bytes too long" if num_bytes > wanted else ""


def _names_error(header: Mapping[str, Any], expected: set[str]) -> str:
    missing = sorted(expected - header.keys())
    return f"lacks {len(missing)} tensors of the index, such as {missing[0]}" if missing else ""


def _of_folder(folder: Path) -> Iterator[ModelFile]:
    """config.json, the index if there is one, and the weights."""
    yield _json_file(folder / "config.json")
    tensors: dict[str, set[str]] = {}
    index = folder / INDEX
    if index.exists():
        found = _json_file(index)
        yield found
        if found.error:
            return
        try:
            for tensor, name in json.loads(index.read_bytes())["weight_map"].items():
                tensors.setdefault(str(name), set()).add(tensor)
        except (KeyError, TypeError, AttributeError):
            yield msgspec.structs.replace(found, error="it has no weight_map")
            return
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        tensors = {name: set() for name in (["model.safetensors"] if "model.safetensors" in names else names)}
    if not tensors:
        yield ModelFile(name="*.safetensors", num_bytes=0, error="there is none, and other weights are not read")
    for name, expected in sorted(tensors.items()):
        path = folder / name
        yield _file(path, safetensors_error(path, expected) if Path(name).name == name else "it lies elsewhere")


def _json_file(path: Path) -> ModelFile:
    try:
        json.loads(path.read_bytes())
    except OSError as error:
        return _file(path, f"cannot be read: {error.strerror}")
    except ValueError as error:
        return _file(path, f"not JSON: {error}")
    return _file(path, "")


def _gguf_error(path: Path) -> str:
    try:
        read_index(path)
    except ModelError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


def _file(path: Path, error: str) -> ModelFile:
    num_bytes = path.stat().st_size if path.is_file() else 0
    return ModelFile(name=path.name, num_bytes=num_bytes, error=error)


def _hashed(files: list[ModelFile], folder: Path, budget: int | None) -> Iterator[ModelFile]:
    """Hashes the files that the hub's cache has a SHA-256 of, up to a number of bytes together."""
    spent = 0
    for one in files:
        wanted = hash_of(folder / one.name) if not one.error else ""
        if not wanted:
            yield one
        elif budget is not None and spent + one.num_bytes > budget:
            yield msgspec.structs.replace(one, hash_is="skipped")
        else:
            spent += one.num_bytes
            with (folder / one.name).open("rb") as file:
                is_right = hashlib.file_digest(file, "sha256").hexdigest() == wanted
            yield msgspec.structs.replace(one, hash_is="right" if is_right else "wrong")
