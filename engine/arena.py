"""Named pieces of memory that the processes of one machine share and that outlive any of them.

    one file in memory:  names, 16 to a bucket | when each was used | which are whole | the pieces

A name has its place in one bucket, where the piece that was used longest ago makes room. Memory is taken as pieces are
written. A piece that is not whole is empty: its writer was killed. A bucket is locked, by a byte of the file, for as
long as a copy takes. Nobody waits for a lock, since a process that holds one may be stopped: what cannot be had at once
is not there.
"""

import contextlib
import fcntl
import mmap
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

__all__ = ["NAME_BYTES", "WAYS", "Arena", "ArenaError", "give_back_unused"]

WAYS = 16  # pieces in a bucket
NAME_BYTES = 16
PREFIX = "manta-blocks-"
USERS = 1 << 40  # the byte, far beyond the end, of which everybody who has the file open holds a share


class ArenaError(Exception):
    """There is not so much memory."""


class Arena:
    """One process's view of it. Not thread safe."""

    def __init__(self, identity: str, piece_bytes: int, num_bytes: int, folder: Path | None = None) -> None:
        """Opens the memory of that identity, or makes it. Raises ArenaError where it does not fit.

        Memory of other identities that nobody has open is given back.
        """
        folder = folder or _folder()
        self.identity, self.piece_bytes = identity, piece_bytes
        self._size = piece_bytes, num_bytes, folder
        self.num_pieces = num_bytes // piece_bytes // WAYS * WAYS
        assert self.num_pieces > 0, "there must be room for a bucket"
        self._path = folder / f"{PREFIX}{identity}-{self.num_pieces}x{piece_bytes}"
        give_back_unused(folder, but=self._path)
        self._file = _open(self._path)
        starts = [0]
        for size in (NAME_BYTES, 8, 1, piece_bytes):
            starts.append(-(-(starts[-1] + size * self.num_pieces) // mmap.PAGESIZE) * mmap.PAGESIZE)
        free = os.statvfs(folder)
        if os.fstat(self._file).st_size == 0 and free.f_bavail * free.f_frsize < starts[-1]:
            _give_back(self._path, self._file)
            os.close(self._file)
            raise ArenaError(f"{folder} has no room for {num_bytes} bytes")
        os.ftruncate(self._file, starts[-1])
        self._memory = mmap.mmap(self._file, starts[-1])
        self._start = starts[-2]

        def array(part: int, dtype: type[np.generic], size: int) -> np.ndarray:
            return np.frombuffer(self._memory, dtype, size, starts[part])

        self._names = memoryview(self._memory)[: NAME_BYTES * self.num_pieces]
        self._used = array(1, np.uint64, self.num_pieces)
        self._whole = array(2, np.uint8, self.num_pieces)
        self._pieces = array(3, np.uint8, piece_bytes * self.num_pieces).reshape(self.num_pieces, piece_bytes)

    def beside(self, identity: str) -> "Arena":
        """Another one of this size, in the same place."""
        return Arena(identity, *self._size)

    def holds(self, name: bytes) -> bool:
        """True if it is there now, to be read soon."""
        return self._place(name) is not None

    @contextlib.contextmanager
    def reading(self, name: bytes) -> Iterator[np.ndarray | None]:
        """The piece [piece_bytes] uint8, to be copied inside; None if it is not there."""
        with self._locked(name, fcntl.F_RDLCK) as is_locked:
            place = self._place(name) if is_locked else None
            if place is not None:
                self._used[place] = time.monotonic_ns()
            yield None if place is None else self._pieces[place]

    @contextlib.contextmanager
    def writing(self, name: bytes) -> Iterator[np.ndarray | None]:
        """Where to write a new piece of that name; None if it is there already, or cannot be now."""
        with self._locked(name, fcntl.F_WRLCK) as is_locked:
            if not is_locked or self._place(name) is not None:
                yield None
                return
            first = self._first(name)
            bucket = slice(first, first + WAYS)
            place = first + int(np.argmin(self._used[bucket] * self._whole[bucket]))
            at = self._start + place * self.piece_bytes
            if self._used[place] == 0 and not _take_memory(self._file, at, self.piece_bytes):
                yield None
                return
            self._whole[place] = 0
            yield self._pieces[place]
            self._names[place * NAME_BYTES : (place + 1) * NAME_BYTES] = name
            self._used[place] = time.monotonic_ns()
            self._whole[place] = 1

    def close(self) -> None:
        """The last one who closes gives the memory back."""
        self._names.release()
        del self._used, self._whole, self._pieces
        with contextlib.suppress(BufferError):  # somebody still looks at a piece: it goes with that view
            self._memory.close()
        _give_back(self._path, self._file)
        os.close(self._file)

    def _place(self, name: bytes) -> int | None:
        first = self._first(name)
        names = bytes(self._names[first * NAME_BYTES : (first + WAYS) * NAME_BYTES])
        at = names.find(name)
        while at % NAME_BYTES and at >= 0:
            at = names.find(name, at + 1)
        place = first + at // NAME_BYTES
        return place if at >= 0 and self._whole[place] else None

    def _first(self, name: bytes) -> int:
        """The first place of the name's bucket."""
        return int.from_bytes(name[:8], "little") % (self.num_pieces // WAYS) * WAYS

    @contextlib.contextmanager
    def _locked(self, name: bytes, kind: int) -> Iterator[bool]:
        first = self._first(name)
        is_locked = _lock(self._file, kind, first)
        try:
            yield is_locked
        finally:
            if is_locked:
                _lock(self._file, fcntl.F_UNLCK, first)


def _open(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        _lock(file, fcntl.F_RDLCK, USERS)
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(file).st_ino:
                return file
        os.close(file)  # somebody gave it back in between


def _take_memory(file: int, start: int, num_bytes: int) -> bool:
    """False where there is none left; to write there all the same would end the process."""
    if hasattr(os, "posix_fallocate"):  # beyond Linux it is a file on a disk
        with contextlib.suppress(OSError):
            os.posix_fallocate(file, start, num_bytes)
            return True
        return False
    return True


def give_back_unused(folder: Path | None = None, but: Path | None = None) -> None:
    """Gives all memory back that nobody has open: its last user was killed."""
    for path in (folder or _folder()).glob(f"{PREFIX}*"):
        if path != but:
            with contextlib.suppress(OSError):  # another user's, or gone meanwhile
                file = os.open(path, os.O_RDWR)
                _give_back(path, file)
                os.close(file)


def _folder() -> Path:
    return Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())


def _give_back(path: Path, file: int) -> None:
    """Unless somebody else has it open."""
    if _lock(file, fcntl.F_WRLCK, USERS):
        path.unlink(missing_ok=True)


def _lock(file: int, kind: int, byte: int) -> bool:
    """Of this opening of the file, which ends with it however the process ends. False if it cannot be had now."""
    if not hasattr(fcntl, "F_OFD_SETLK"):  # beyond Linux locks are of the process
        names = {fcntl.F_RDLCK: fcntl.LOCK_SH, fcntl.F_WRLCK: fcntl.LOCK_EX, fcntl.F_UNLCK: fcntl.LOCK_UN}
        with contextlib.suppress(OSError):
            fcntl.lockf(file, names[kind] | fcntl.LOCK_NB, 1, byte)
            return True
        return False
    with contextlib.suppress(OSError):
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi", kind, os.SEEK_SET, byte, 1, 0))
        return True
    return False
