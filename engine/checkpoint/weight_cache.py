"""The weight cache: packed weights in a folder, written by the first start and shared by all replicas of the node.

A first start builds the model twice: once to write a packed file (packed_file.py), then from it, as all others do. On
the meta device, which has shapes and no numbers, stands what was packed: matrices may be cut, stacked and packed, and
nobody may look at their numbers.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from engine.checkpoint.matrix import Matrix
from engine.checkpoint.packed_file import DamagedFileError, NotKeptError, PackedFile, PackedFileWriter, StaleFileError
from engine.checkpoint.source import ModelFiles
from kernels.native.private import NotPrivateError, make_folder
from kernels.native.weight_memory import PrivateMemory
from kernels.quantized_linear.reference import GroupQuantized

__all__ = ["WeightCache", "weight_key"]

log = logging.getLogger(__name__)

CODE = (
    "kernels/linear",
    "kernels/quantized_linear",
    "kernels/head_linear",
    "kernels/experts",
    "engine/arch",
    "engine/checkpoint",
    "engine/model",
)
LOCK_S = 600.0  # for so long a start waits for another that is packing the same
STALE_S = 3600.0  # a temporary file that nobody has written to for so long is left over
LEAST_BYTES = 16 << 20  # a smaller checkpoint is packed in no time
Model = TypeVar("Model")


def weight_key(files: ModelFiles, settings: str) -> str:
    """What packed weights depend on: the checkpoint's files, the code that packs, and settings, as text."""
    stats = ((path.resolve(), path.stat()) for path in _paths(files))
    origin = [f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats]
    return "\n".join([settings, *origin, _code_digest()])


class WeightCache:
    """Where `Weights` and kernels ask for tensors while a model is built: in `load`, by the file, else as they are."""

    def __init__(self, max_bytes: int, folder: Path | None = None, least_bytes: int = LEAST_BYTES) -> None:
        """max_bytes    of all files in the folder, of which the least recently used ones go; 0: no files
        folder       by default one in the user's home
        least_bytes  smaller checkpoints have no file
        """
        self._max_bytes, self._folder, self._least_bytes = max_bytes, folder, least_bytes
        self._mode: _Uncached | _Recording | _Mapped = _Uncached()

    def tensor(self, name: str, read: Callable[[], Tensor]) -> Tensor:
        """What `read()` returns, whose numbers are looked at."""
        return self._mode.tensor(name, read)

    def matrix(self, name: str, read: Callable[[], Matrix | None]) -> Matrix | None:
        """What `read()` returns, or, where it was packed before, the same without numbers."""
        return self._mode.matrix(name, read)

    def place(self, layout: str, num_bytes: int, pack: Callable[[], Tensor]) -> Tensor:
        """The weight memory of kernels."""
        return self._mode.place(layout, num_bytes, pack)

    def load(self, files: ModelFiles, settings: str, build: Callable[[], Model]) -> Model:
        """The model that `build` builds out of what it asks this for; called twice where the file is written.

        settings  what packed weights depend on beside the checkpoint and the code. Each has a file of its own, which is
                  written again when the other two have changed.
        """
        if not self._max_bytes or sum(path.stat().st_size for path in _paths(files)) < self._least_bytes:
            return build()
        path = None
        try:
            path, key = self._path(files, settings), weight_key(files, settings)
            with _locked(path.with_suffix(".lock")):
                self._mode = _Mapped(self._open(path, key) or self._written(path, key, build))
            return build()
        except NotKeptError as error:
            log.warning("packed weights are not kept (engine.weight_cache_bytes): %s", error)
        except DamagedFileError as error:
            log.warning("%s: %s; weights are packed for this process alone", path, error)
        self._mode = _Uncached()
        return build()

    def _path(self, files: ModelFiles, settings: str) -> Path:
        try:
            folder = make_folder(self._folder or Path.home() / ".cache" / "manta" / "weights")
        except (OSError, RuntimeError, NotPrivateError) as error:  # RuntimeError: this user has no home
            raise NotKeptError(str(error)) from error
        name = hashlib.sha256(f"{files.path.resolve()}\n{settings}".encode()).hexdigest()[:32]
        return folder / f"{name}.packed"

    def _open(self, path: Path, key: str) -> PackedFile | None:
        try:
            file = PackedFile(path, key)
        except FileNotFoundError:
            return None
        except StaleFileError as error:
            log.info("%s is written again: %s", path, error)
            return None
        except (OSError, DamagedFileError) as error:
            log.warning("%s is written again: %s", path, error)
            return None
        os.utime(path)  # the least recently used files go first
        log.info("packed weights are mapped from %s", path)
        return file

    def _written(self, path: Path, key: str, build: Callable[[], Model]) -> PackedFile:
        started = time.perf_counter()
        writer = PackedFileWriter(path, key, self._max_bytes)
        self._mode = _Recording(writer)
        try:
            build()
            writer.finish()
        except BaseException:
            writer.abandon()
            raise
        _evict(path, self._max_bytes)
        _trim_heap()
        log.info("weights are packed into %s (%.1f s)", path, time.perf_counter() - started)
        return PackedFile(path, key)


class _Uncached:
    def tensor(self, name: str, read: Callable[[], Tensor]) -> Tensor:
        return read()

    def matrix(self, name: str, read: Callable[[], Matrix | None]) -> Matrix | None:
        return read()

    def place(self, layout: str, num_bytes: int, pack: Callable[[], Tensor]) -> Tensor:
        return PrivateMemory().place(layout, num_bytes, pack)


class _Recording:
    """Writes what passes. The model that is built meanwhile has no weights: nobody may run it."""

    def __init__(self, writer: PackedFileWriter) -> None:
        self._writer = writer
        self._num_packed = 0

    def tensor(self, name: str, read: Callable[[], Tensor]) -> Tensor:
        tensor = read()
        self._writer.add(f"tensor {name}", tensor, facts=_facts(tensor))
        return tensor

    def matrix(self, name: str, read: Callable[[], Matrix | None]) -> Matrix | None:
        matrix = read()
        self._writer.add(f"matrix {name}", facts=_facts(matrix))
        return matrix

    def place(self, layout: str, num_bytes: int, pack: Callable[[], Tensor]) -> Tensor:
        self._writer.add(f"packed {self._num_packed}", pack(), num_bytes, facts=[layout, num_bytes])
        self._num_packed += 1
        return torch.empty(0, dtype=torch.uint8)


class _Mapped:
    """Gives what was recorded, in the same order. Raises DamagedFileError if something else is asked for."""

    def __init__(self, file: PackedFile) -> None:
        self._file = file
        self._num_packed = 0

    def tensor(self, name: str, read: Callable[[], Tensor]) -> Tensor:
        dtype, *shape = self._facts(f"tensor {name}")
        return self._file.tensor(f"tensor {name}").view(getattr(torch, dtype)).view(shape)

    def matrix(self, name: str, read: Callable[[], Matrix | None]) -> Matrix | None:
        return _without_numbers(self._facts(f"matrix {name}"))

    def place(self, layout: str, num_bytes: int, pack: Callable[[], Tensor]) -> Tensor:
        name = f"packed {self._num_packed}"
        self._num_packed += 1
        if self._facts(name) != [layout, num_bytes]:
            raise DamagedFileError(f"it has {self._facts(name)} where {layout} is expected")
        return self._file.tensor(name)

    def _facts(self, name: str) -> Any:
        if name not in self._file.pieces:
            raise DamagedFileError(f"it lacks {name}")
        return self._file.pieces[name]["facts"]


def _facts(matrix: Matrix | None) -> list[Any]:
    """A tensor's dtype and sizes; of a group-quantized one more; nothing of None."""
    if matrix is None:
        return []
    if isinstance(matrix, Tensor):
        return [str(matrix.dtype).removeprefix("torch."), *matrix.shape]
    groups = matrix.factors_OG.shape[1]
    scales = str(matrix.factors_OG.dtype).removeprefix("torch.")
    return ["quantized", *matrix.shape, groups, scales, matrix.offsets_OG is not None, matrix.least, matrix.bits]


def _without_numbers(facts: list[Any]) -> Matrix | None:
    match facts:
        case []:
            return None
        case ["quantized", num_out, num_in, groups, scales, has_offsets, least, bits]:
            ints_OI = torch.empty((num_out, num_in), dtype=torch.int8, device="meta")
            factors_OG = torch.empty((num_out, groups), dtype=getattr(torch, scales), device="meta")
            return GroupQuantized(ints_OI, factors_OG, factors_OG if has_offsets else None, least, bits)
    dtype, *shape = facts
    return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time, for as long as it lives. Raises NotKeptError after LOCK_S: the holder may be stopped."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise NotKeptError(str(error)) from error
    deadline = time.monotonic() + LOCK_S
    try:
        while not _try_lock(file):
            if time.monotonic() > deadline:
                raise NotKeptError(f"another process has held {path} for {LOCK_S} s")
            time.sleep(0.05)
        yield
    finally:
        os.close(file)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _evict(newest: Path, max_bytes: int) -> None:
    """Removes the least recently used files beyond `max_bytes`, and what crashes left; whoever maps one keeps it."""
    for path in newest.parent.glob("*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_S:
                path.unlink()
    others = sorted((path for path in newest.parent.glob("*.packed") if path != newest), key=_modified, reverse=True)
    total = newest.stat().st_size
    for path in others:
        with contextlib.suppress(OSError):
            total += path.stat().st_size
            if total > max_bytes:
                path.unlink()


def _trim_heap() -> None:
    """Gives the kernel back what packing took, where the C library knows how: as much again as the weights."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _paths(files: ModelFiles) -> list[Path]:
    return [files.path] if files.path.is_file() else sorted(path for path in files.path.iterdir() if path.is_file())


def _code_digest() -> str:
    root, digest = Path(__file__).parent.parent.parent, hashlib.sha256()
    for folder in CODE:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
