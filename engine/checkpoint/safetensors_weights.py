"""Weights in safetensors: one file of a folder, or several with an index."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.checkpoint.matrix import Matrix
from engine.checkpoint.shard import Shard
from engine.errors import ModelError

__all__ = ["SafetensorsSource"]

INDEX = "model.safetensors.index.json"


class SafetensorsSource:
    def __init__(self, folder: Path) -> None:
        self._files = {name: self._open(folder / name) for name in _file_names(folder)}
        self._holder = {tensor: name for name, file in self._files.items() for tensor in file.keys()}  # type: ignore[no-untyped-call]

    def names(self) -> set[str]:
        return set(self._holder)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def read(self, name: str, part: Shard | None = None) -> Tensor:
        """Reads the shard's bytes only."""
        tensor: Tensor
        if part is None:
            tensor = self._files[self._holder[name]].get_tensor(name)  # type: ignore[no-untyped-call]
        elif part.dim == 0:
            tensor = self._slice(name)[part.start : part.stop]
        else:
            tensor = self._slice(name)[:, part.start : part.stop]
        return tensor

    def read_matrix(self, name: str, part: Shard | None = None) -> Matrix:
        return self.read(name, part)

    def _slice(self, name: str) -> Any:
        return self._files[self._holder[name]].get_slice(name)  # type: ignore[no-untyped-call]

    def _open(self, path: Path) -> safe_open:
        try:
            return safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: not a readable .safetensors file: {error}") from error


def _file_names(folder: Path) -> list[str]:
    if not (folder / INDEX).exists():
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        if not names:
            raise ModelError(f"{folder}: no .safetensors files (other weight formats are not read)")
        return ["model.safetensors"] if "model.safetensors" in names else names
    try:
        names = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{folder / INDEX}: not a weight index: {error!r}") from error
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder}: the index names files that are not there: {', '.join(missing)}")
    return names
