"""The host tier of KV offload: a set-associative LRU cache of KV blocks in a file in memory, shared by processes.

    the file:   buckets | slots
    a bucket:   the block hashes of its 16 slots | when each was last used, 0: the slot is empty
    a slot:     a block | its hash once more

A hash belongs to one bucket, where it evicts the least recently used block. Memory is taken as slots are written. A
slot is marked empty while it is written, so what a killed process left half written is never read. A bucket is locked,
by a record lock on a byte of the file, for one copy. A lock is tried, never waited for, since its holder may be
stopped: a bucket that is locked is a miss.

The file is read and written, never mapped: touching a mapped page of a file that was truncated, or for which no memory
is left, ends the process with SIGBUS. Here the first is a miss and the second a block that is not kept. A truncated
slot reads as zeros once the file has grown again; zeros are no hash.
"""

import contextlib
import errno
import fcntl
import logging
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from kernels.native.private import NotPrivateError, make_file, open_file
from kernels.native.segment import shared_memory_folder

__all__ = ["HASH_BYTES", "WAYS", "HostTier", "HostTierError", "remove_unused"]

WAYS = 16  # slots of a bucket
HASH_BYTES = 16
PREFIX = "manta-blocks-"
LAYOUT = 2  # version of the file's layout
USERS = 1 << 40  # the byte, far beyond the end, on which every process with the file open holds a shared lock
LAST_USED = struct.Struct(f"<{WAYS}Q")
BUCKET_BYTES = WAYS * HASH_BYTES + LAST_USED.size
MAX_BUFFERS = 1024  # of one preadv or pwritev (IOV_MAX)
OPEN_S = 1.0  # opening is tried again for so long, while another process removes the file

log = logging.getLogger(__name__)

Buffers = Iterable[Any]  # pieces of contiguous memory that together are a block


class HostTierError(Exception):
    """The file cannot be made or opened, or belongs to another user."""


class HostTier:
    """One process's view of the cache. Not thread safe. Failures after opening are logged once and cost hits only."""

    def __init__(self, identity: str, piece_bytes: int, num_bytes: int, folder: Path | None = None) -> None:
        """Opens or makes the file of that identity, for blocks of `piece_bytes`. Raises HostTierError.

        Files of other identities that no process has open are removed.
        """
        folder = folder or shared_memory_folder()
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
        self._warned = _WarnedOnce()
        if self._grown_to == 0 and free.f_bavail * free.f_frsize < whole:
            self.close()
            raise HostTierError(f"{folder} has no room for {num_bytes} bytes")

    def open_sibling(self, identity: str) -> "HostTier":
        """Opens another cache of this size in the same folder."""
        other = HostTier(identity, *self._size)
        other._warned = self._warned
        return other

    def holds(self, name: bytes) -> bool:
        """Whether the block is cached now."""
        return _way(self._bucket(name), name) is not None

    def read(self, name: bytes, into: Buffers) -> bool:
        """Fills the buffers, `piece_bytes` together, with the block of that hash. False: a miss, and the buffers are
        undefined."""
        with self._locked(name, fcntl.F_RDLCK) as file:
            if file is None or (way := _way(self._bucket(name), name)) is None:
                return False
            behind = bytearray(HASH_BYTES)
            try:
                is_whole = _transfer(os.preadv, file, [*into, behind], self._slot_at(name, way)) and behind == name
            except OSError as error:
                self._warn_once(_explain(error, self._path))
                return False
            with contextlib.suppress(OSError):
                if is_whole:
                    self._set_last_used(file, name, way, time.monotonic_ns())
                else:  # other blocks are lost as well: start with an empty file
                    self._warn_once(f"{self._path}: somebody truncated it or wrote to it")
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
                self._warn_once(_explain(error, self._path))
                return False
            return True

    def close(self) -> None:
        """Closes the file; the last user removes it."""
        if self._file is not None:
            _remove_if_unused(self._path, self._file)
            os.close(self._file)
            self._file = None

    def _bucket(self, name: bytes) -> bytearray:
        """The bucket of a hash; zeros if it cannot be read."""
        bucket = bytearray(BUCKET_BYTES)
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.preadv(self._file, [bucket], self._at(name))
        return bucket

    def _at(self, name: bytes) -> int:
        """The offset of the bucket of a hash."""
        return _number(name) % self._num_buckets * BUCKET_BYTES

    def _slot_at(self, name: bytes, way: int) -> int:
        number = _number(name) % self._num_buckets * WAYS + way
        return self._num_buckets * BUCKET_BYTES + number * self._slot_bytes

    def _set_last_used(self, file: int, name: bytes, way: int, at_ns: int) -> None:
        os.pwrite(file, at_ns.to_bytes(8, "little"), self._at(name) + WAYS * HASH_BYTES + 8 * way)

    def _is_intact(self, file: int) -> bool:
        """False where a replica that starts now would not find this file: then it is closed, to free its memory."""
        if not _is_at(self._path, file):
            self._warn_once(f"{self._path}: somebody removed or replaced it; it is used again after a restart")
            self.close()
            return False
        size = os.fstat(file).st_size
        if size < self._grown_to:
            self._warn_once(f"{self._path}: somebody truncated it")
        self._grown_to = size
        return True

    def _warn_once(self, reason: str) -> None:
        if not self._warned.is_made:
            self._warned.is_made = True
            log.warning("KV offload (engine.cache.kv_offloading_bytes) does without: %s", reason)

    @contextlib.contextmanager
    def _locked(self, name: bytes, kind: int) -> Iterator[int | None]:
        """The file, with the bucket locked; None if the lock is taken."""
        file, byte = self._file, self._at(name)
        if file is None or not _lock(file, kind, byte):
            yield None
            return
        try:
            yield file
        finally:
            if self._file is not None:
                _lock(file, fcntl.F_UNLCK, byte)


class _WarnedOnce:
    """Whether a failure was logged, for all views of one process."""

    is_made = False


def _number(name: bytes) -> int:
    return int.from_bytes(name[:8], "little")


def _way(bucket: bytearray, name: bytes) -> int | None:
    """The slot of the bucket that has that hash, if one has."""
    at = bucket.find(name, 0, WAYS * HASH_BYTES)
    while at >= 0:
        way, within = divmod(at, HASH_BYTES)
        if within == 0 and LAST_USED.unpack_from(bucket, WAYS * HASH_BYTES)[way]:
            return way
        at = bucket.find(name, at + 1, WAYS * HASH_BYTES)
    return None


def _transfer(call: Callable[[int, list[Any], int], int], file: int, buffers: list[Any], start: int) -> bool:
    """Reads into all buffers, or writes them all. False at the end of the file or of memory."""
    for first in range(0, len(buffers), MAX_BUFFERS):
        some = buffers[first : first + MAX_BUFFERS]
        num_bytes = sum(memoryview(buffer).nbytes for buffer in some)
        if call(file, some, start) != num_bytes:
            return False
        start += num_bytes
    return True


def _open(path: Path) -> int:
    """Opens or makes the file at that path, with a shared lock on USERS."""
    deadline_s = time.monotonic() + OPEN_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(FileExistsError, FileNotFoundError):  # another process made or removed it in between
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
    """Removes this user's files that no process has open: their last users were killed."""
    for path in (folder or shared_memory_folder()).glob(f"{PREFIX}*"):
        if path != but:
            with contextlib.suppress(OSError):  # another user's, or gone meanwhile
                file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
                if os.fstat(file).st_uid == os.geteuid():
                    _remove_if_unused(path, file)
                os.close(file)


def _remove_if_unused(path: Path, file: int) -> None:
    """Removes the file unless another process has it open."""
    if _lock(file, fcntl.F_WRLCK, USERS) and _is_at(path, file):
        path.unlink(missing_ok=True)


def _lock(file: int, kind: int, byte: int) -> bool:
    """Takes an open-file-description lock, which ends with the process. False if it is taken."""
    if not hasattr(fcntl, "F_OFD_SETLK"):  # other systems have only locks of a process
        names = {fcntl.F_RDLCK: fcntl.LOCK_SH, fcntl.F_WRLCK: fcntl.LOCK_EX, fcntl.F_UNLCK: fcntl.LOCK_UN}
        with contextlib.suppress(OSError):
            fcntl.lockf(file, names[kind] | fcntl.LOCK_NB, 1, byte)
            return True
        return False
    with contextlib.suppress(OSError):
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi", kind, os.SEEK_SET, byte, 1, 0))
        return True
    return False
