"""The host tier of KV offload: a set-associative LRU cache of KV blocks in a file in memory, shared by processes.

    the file:   buckets | slots
    a bucket:   the block hashes of its 16 slots | when each was last used, 0: the slot is empty
    a slot:     a block | its hash once more

It is a set-associative cache: a hash belongs to one bucket, where it evicts the least recently used block. Memory is
taken as slots are written. A slot is empty while it is written: nobody reads what a killed process left there. A bucket
is locked, by a byte of the file, for as long as a copy takes. Nobody waits for a lock, since a process that holds one
may be stopped: what cannot be had at once is a miss.

The file is read and written, never mapped: a page that is touched when somebody has truncated the file, or when no
memory is left for it, ends the process with SIGBUS. Here the first is a miss and the second a block that is not kept.
Zeros, as which a truncated slot reads once the file has grown again, are no hash.
"""

import contextlib
import errno
import fcntl
import logging
import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from kernels.native.private import NotPrivateError, make_file, open_file

__all__ = ["HASH_BYTES", "WAYS", "HostTier", "HostTierError", "remove_unused"]

WAYS = 16  # slots of a bucket
HASH_BYTES = 16
PREFIX = "manta-blocks-"
LAYOUT = 2  # of the file
USERS = 1 << 40  # the byte, far beyond the end, of which everybody who has the file open holds a share
LAST_USED = struct.Struct(f"<{WAYS}Q")
BUCKET_BYTES = WAYS * HASH_BYTES + LAST_USED.size
MAX_BUFFERS = 1024  # that a call of the system takes; the same everywhere
OPEN_S = 1.0  # for as long another process may give the file back

log = logging.getLogger(__name__)

Buffers = Iterable[Any]  # pieces of contiguous memory that together are a block


class HostTierError(Exception):
    """The memory is not there, or belongs to another user."""


class HostTier:
    """One process's view of the cache. Not thread safe. Failures after opening are logged once and cost hits only."""

    def __init__(self, identity: str, piece_bytes: int, num_bytes: int, folder: Path | None = None) -> None:
        """Opens the memory of that identity for blocks of `piece_bytes`, or makes it. Raises HostTierError.

        Memory of other identities that nobody has open is given back.
        """
        folder = folder or _folder()
        self.identity, self.piece_bytes = identity, piece_bytes
        self._size = piece_bytes, num_bytes, folder
        self.num_pieces = num_bytes // piece_bytes // WAYS * WAYS
        assert self.num_pieces > 0, "there must be room for a bucket"
        self._num_buckets = self.num_pieces // WAYS
        self._path = folder / f"{PREFIX}{identity}-{self.num_pieces}x{piece_bytes}-{LAYOUT}"
        remove_unused(folder, but=self._path)
        self._slot_bytes = piece_bytes + HASH_BYTES
        whole = self._num_buckets * BUCKET_BYTES + self.num_pieces * self._slot_bytes
        try:
            self._file: int | None = _open(self._path)
            free = os.statvfs(folder)
        except (OSError, NotPrivateError) as error:
            raise HostTierError(_explain(error, self._path)) from None
        self._grown_to = os.fstat(self._file).st_size
        self._complaints = _Complaints()
        if self._grown_to == 0 and free.f_bavail * free.f_frsize < whole:
            self.close()
            raise HostTierError(f"{folder} has no room for {num_bytes} bytes")

    def beside(self, identity: str) -> "HostTier":
        """Opens another cache of this size in the same folder."""
        other = HostTier(identity, *self._size)
        other._complaints = self._complaints
        return other

    def holds(self, name: bytes) -> bool:
        """Whether the block is cached now."""
        return _way(self._bucket(name), name) is not None

    def read(self, name: bytes, into: Buffers) -> bool:
        """Fills the buffers, `piece_bytes` together, with the block of that hash. False: it is not there, and what the
        buffers hold means nothing."""
        with self._locked(name, fcntl.F_RDLCK) as file:
            if file is None or (way := _way(self._bucket(name), name)) is None:
                return False
            behind = bytearray(HASH_BYTES)
            try:
                is_whole = _transfer(os.preadv, file, [*into, behind], self._slot_at(name, way)) and behind == name
            except OSError as error:
                self._complain(_explain(error, self._path))
                return False
            with contextlib.suppress(OSError):
                if is_whole:
                    self._set_last_used(file, name, way, time.monotonic_ns())
                else:  # other blocks are lost as well: all begins anew
                    self._complain(f"{self._path}: somebody truncated it or wrote to it")
                    os.ftruncate(file, 0)
            return is_whole

    def write(self, name: bytes, block: Buffers) -> bool:
        """Writes a block, evicting the LRU one of its bucket. False: it is cached already, or the bucket is locked."""
        with self._locked(name, fcntl.F_WRLCK) as file:
            bucket = self._bucket(name)
            if file is None or _way(bucket, name) is not None or not self._is_intact(file):
                return False
            used = list(LAST_USED.unpack_from(bucket, WAYS * HASH_BYTES))
            way = used.index(min(used))
            try:
                if used[way]:
                    self._set_last_used(file, name, way, 0)
                if not _transfer(os.pwritev, file, [*block, name], self._slot_at(name, way)):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                bucket[way * HASH_BYTES : (way + 1) * HASH_BYTES] = name
                used[way] = time.monotonic_ns()
                LAST_USED.pack_into(bucket, WAYS * HASH_BYTES, *used)
                os.pwrite(file, bucket, self._at(name))
            except OSError as error:
                self._complain(_explain(error, self._path))
                return False
            return True

    def close(self) -> None:
        """Closes the file; the last user removes it."""
        if self._file is not None:
            _give_back(self._path, self._file)
            os.close(self._file)
            self._file = None

    def _bucket(self, name: bytes) -> bytearray:
        """Full of zeros if it cannot be read."""
        bucket = bytearray(BUCKET_BYTES)
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.preadv(self._file, [bucket], self._at(name))
        return bucket

    def _at(self, name: bytes) -> int:
        """Where its bucket begins."""
        return _number(name) % self._num_buckets * BUCKET_BYTES

    def _slot_at(self, name: bytes, way: int) -> int:
        number = _number(name) % self._num_buckets * WAYS + way
        return self._num_buckets * BUCKET_BYTES + number * self._slot_bytes

    def _set_last_used(self, file: int, name: bytes, way: int, at_ns: int) -> None:
        os.pwrite(file, at_ns.to_bytes(8, "little"), self._at(name) + WAYS * HASH_BYTES + 8 * way)

    def _is_intact(self, file: int) -> bool:
        """False where a replica that starts now would not find this file: it is closed then, for its memory."""
        if not _is_at(self._path, file):
            self._complain(f"{self._path}: somebody removed or replaced it; it is used again after a restart")
            self.close()
            return False
        size = os.fstat(file).st_size
        if size < self._grown_to:
            self._complain(f"{self._path}: somebody truncated it")
        self._grown_to = size
        return True

    def _complain(self, reason: str) -> None:
        if not self._complaints.is_made:
            self._complaints.is_made = True
            log.warning("KV offload (engine.cache.kv_offloading_bytes) does without: %s", reason)

    @contextlib.contextmanager
    def _locked(self, name: bytes, kind: int) -> Iterator[int | None]:
        """The file, while the bucket is locked; None if that cannot be."""
        file, byte = self._file, self._at(name)
        if file is None or not _lock(file, kind, byte):
            yield None
            return
        try:
            yield file
        finally:
            if self._file is not None:
                _lock(file, fcntl.F_UNLCK, byte)


class _Complaints:
    """Of all views that a process has: one."""

    is_made = False


def _number(name: bytes) -> int:
    return int.from_bytes(name[:8], "little")


def _way(bucket: bytearray, name: bytes) -> int | None:
    """Which slot of its bucket has that hash, if one has it."""
    at = bucket.find(name, 0, WAYS * HASH_BYTES)
    while at >= 0:
        way, within = divmod(at, HASH_BYTES)
        if within == 0 and LAST_USED.unpack_from(bucket, WAYS * HASH_BYTES)[way]:
            return way
        at = bucket.find(name, at + 1, WAYS * HASH_BYTES)
    return None


def _transfer(call: Callable[[int, list[Any], int], int], file: int, buffers: list[Any], start: int) -> bool:
    """Reads into all buffers, or writes them all. False if the file ends before, or its memory does."""
    for first in range(0, len(buffers), MAX_BUFFERS):
        some = buffers[first : first + MAX_BUFFERS]
        num_bytes = sum(memoryview(buffer).nbytes for buffer in some)
        if call(file, some, start) != num_bytes:
            return False
        start += num_bytes
    return True


def _open(path: Path) -> int:
    """The file at that path, of which this process then holds a share."""
    deadline_s = time.monotonic() + OPEN_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(FileExistsError, FileNotFoundError):  # somebody made it or gave it back in between
            file = open_file(path) if os.path.lexists(path) else make_file(path)
            if _lock(file, fcntl.F_RDLCK, USERS) and _is_at(path, file):
                return file
            os.close(file)
            time.sleep(0.001)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _is_at(path: Path, file: int) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.lstat(path), os.fstat(file))
    return False


def _explain(error: Exception, path: Path) -> str:
    return f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)


def remove_unused(folder: Path | None = None, but: Path | None = None) -> None:
    """Removes all files of this user that no process has open: their last users were killed."""
    for path in (folder or _folder()).glob(f"{PREFIX}*"):
        if path != but:
            with contextlib.suppress(OSError):  # another user's, or gone meanwhile
                file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
                if os.fstat(file).st_uid == os.geteuid():
                    _give_back(path, file)
                os.close(file)


def _folder() -> Path:
    return Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())


def _give_back(path: Path, file: int) -> None:
    """Unless somebody else has it open."""
    if _lock(file, fcntl.F_WRLCK, USERS) and _is_at(path, file):
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
