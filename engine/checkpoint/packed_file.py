"""A packed file: a model's weights as the kernels read them, written once and mapped read-only by every process after.

    head    MAGIC, version, where the index begins, its bytes, its CRC-32
    pieces  each from a page's border on
    index   JSON: what the file was made of (`key`), and each piece: name, place, bytes, CRC-32, what else is to know

The head is written last, and the file gets its name when it is complete: what a crash leaves behind is not read.
"""

import contextlib
import json
import mmap
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.native.private import NotPrivateError, make_file, open_file

__all__ = ["DamagedFileError", "NotKeptError", "PackedFile", "PackedFileWriter", "StaleFileError"]

MAGIC = b"manta-pk"
VERSION = 1
HEAD = struct.Struct("<8sIQQI")
PAGE = 4096
LEAST_FREE_BYTES = 1 << 30  # of the disk
WRITE_BYTES = 32 << 20  # of one write: for large and aligned ones the page cache takes huge pages
MADV_POPULATE_READ = 22  # of Linux 5.14; Python does not name it


class DamagedFileError(Exception):
    """What lies there was not written by us for this key, or was changed since. The message says what is wrong."""


class StaleFileError(DamagedFileError):
    """It was written for another key."""


class NotKeptError(Exception):
    """The file cannot be written: no access, a full disk, more than it may take. The message says which."""


class PackedFileWriter:
    """Writes pieces one after the other to a temporary file. All methods raise NotKeptError."""

    def __init__(self, path: Path, key: str, max_bytes: int) -> None:
        """A temporary file that is there already is replaced: callers hold the lock of `path`."""
        self._path, self._key, self._max_bytes = path, key, max_bytes
        self._temporary = path.with_suffix(".tmp")
        self._buffer = bytearray(PAGE)  # what is not written yet, the head's place first
        self._num_written = 0
        self._index: list[dict[str, Any]] = []
        with _not_kept():
            self._temporary.unlink(missing_ok=True)
            self._file = make_file(self._temporary)

    def add(self, name: str, tensor: Tensor | None = None, num_bytes: int = 0, **facts: Any) -> None:
        """A piece of at least `num_bytes` that begins with the tensor's bytes, and JSON to find beside it."""
        data = _bytes_of(tensor, num_bytes)
        at = self._num_written + len(self._buffer)
        if at + len(data) > self._max_bytes:
            raise NotKeptError(f"they take more than {self._max_bytes} bytes")
        self._index.append({"name": name, "at": at, "num_bytes": len(data), "crc": zlib.crc32(data), **facts})
        self._buffer += data
        self._buffer += bytes(-len(data) % PAGE)
        while len(self._buffer) >= WRITE_BYTES:
            self._flush(WRITE_BYTES)

    def finish(self) -> None:
        """Gives the file its name."""
        index = json.dumps({"key": self._key, "pieces": self._index}).encode()
        head = HEAD.pack(MAGIC, VERSION, self._num_written + len(self._buffer), len(index), zlib.crc32(index))
        self._buffer += index
        self._flush(len(self._buffer))
        with _not_kept():
            os.pwrite(self._file, head, 0)
            os.replace(self._temporary, self._path)
        os.close(self._file)

    def abandon(self) -> None:
        os.close(self._file)
        self._temporary.unlink(missing_ok=True)

    def _flush(self, num_bytes: int) -> None:
        with _not_kept():
            free = os.statvfs(self._path.parent)
            if free.f_bavail * free.f_frsize < LEAST_FREE_BYTES:
                raise NotKeptError(f"{self._path.parent} has less than {LEAST_FREE_BYTES} bytes left")
            while num_bytes:
                written = os.pwrite(self._file, memoryview(self._buffer)[:num_bytes], self._num_written)
                del self._buffer[:written]
                self._num_written += written
                num_bytes -= written


@contextlib.contextmanager
def _not_kept() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotKeptError(str(error)) from error


def _bytes_of(tensor: Tensor | None, num_bytes: int) -> bytes | memoryview:
    if tensor is None:
        return bytes(num_bytes)
    data = tensor.contiguous().flatten().view(torch.uint8).numpy().data
    return data if len(data) >= num_bytes else b"".join((data, bytes(num_bytes - len(data))))


class PackedFile:
    """The pieces of a mapped file by name. Their tensors keep the mapping alive; writing to one ends the process."""

    def __init__(self, path: Path, key: str) -> None:
        """Raises FileNotFoundError, and DamagedFileError unless every byte is what was written for this key."""
        file = _open(path)
        try:
            size = os.fstat(file).st_size
            index = _index_of(file, size)
            if index.get("key") != key:
                raise StaleFileError("it was packed from something else")
            self._memory = mmap.mmap(file, size, access=mmap.ACCESS_READ)
        finally:
            os.close(file)
        self._read_ahead()
        self.pieces: Mapping[str, dict[str, Any]] = {piece["name"]: piece for piece in index["pieces"]}
        for piece in self.pieces.values():
            if zlib.crc32(self._piece(piece)) != piece["crc"]:
                raise DamagedFileError(f"{piece['name']} is not what was written")

    def tensor(self, name: str) -> Tensor:
        """A piece's bytes."""
        with warnings.catch_warnings():  # torch warns of memory that cannot be written to
            warnings.simplefilter("ignore")
            data = self._piece(self.pieces[name])
            return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)

    def _piece(self, piece: Mapping[str, Any]) -> memoryview:
        return memoryview(self._memory)[piece["at"] : piece["at"] + piece["num_bytes"]]

    def _read_ahead(self) -> None:
        """The whole file at once, on huge pages where the file system has them (XFS, ext4 from Linux 6.16 on)."""
        if not hasattr(mmap, "MADV_HUGEPAGE"):
            return
        for advice in (mmap.MADV_HUGEPAGE, MADV_POPULATE_READ):
            try:
                self._memory.madvise(advice)
            except OSError as error:  # EINVAL of an older kernel; else what is on the disk cannot be read
                if advice == MADV_POPULATE_READ and error.errno != 22:
                    raise DamagedFileError(f"it cannot be read ({error})") from None


def _open(path: Path) -> int:
    try:
        return open_file(path)
    except NotPrivateError as error:
        raise DamagedFileError(str(error)) from None


def _index_of(file: int, size: int) -> dict[str, Any]:
    head = os.pread(file, HEAD.size, 0)
    if len(head) < HEAD.size:
        raise DamagedFileError("it is cut off")
    magic, version, at, num_bytes, crc = HEAD.unpack(head)
    if (magic, version) != (MAGIC, VERSION):
        raise DamagedFileError("it is no packed file of this version")
    data = os.pread(file, num_bytes, at) if at + num_bytes == size else b""
    if len(data) != num_bytes or zlib.crc32(data) != crc:
        raise DamagedFileError("its index is not what was written")
    index: dict[str, Any] = json.loads(data)
    return index
