"""Shared-memory segments: memory that processes of one machine share under a name."""

import contextlib
import ctypes
import fcntl
import mmap
import os
import tempfile
import time
from pathlib import Path

from kernels.native.private import NotPrivateError, make_file, open_file

__all__ = ["Segment", "held_segments", "remove_abandoned", "shared_memory_folder"]

ABANDONED_S = 600.0  # a file that no maker holds is left alone for so long: it may be made just now


class Segment:
    """One process's end. `address` is None once it is closed."""

    def __init__(self, name: str, num_bytes: int, is_maker: bool) -> None:
        """The maker makes it, full of zeros; the others open it. OSError: there is not so much memory."""
        # a plain file in memory: multiprocessing's SharedMemory is removed with the first process that ends (bpo-38119)
        self._path = shared_memory_folder() / name
        self._is_maker = is_maker
        file = make_file(self._path) if is_maker else open_file(self._path)
        self._held: int | None = file if is_maker else None  # as long as the name is there, its maker has it locked
        try:
            if is_maker:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                _take(file, num_bytes)
            self._memory = mmap.mmap(file, num_bytes)
        except BaseException:
            self.forget_name()
            raise
        finally:
            if not is_maker:
                os.close(file)
        self._anchor: ctypes.c_char | None = ctypes.c_char.from_buffer(self._memory)
        self.address: int | None = ctypes.addressof(self._anchor)

    def forget_name(self) -> None:
        """Everybody has opened it: nothing stays behind, however its processes end."""
        if self._is_maker:
            self._path.unlink(missing_ok=True)
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def close(self) -> None:
        if self.address is not None:
            self.address = self._anchor = None
            self._memory.close()
            self.forget_name()


def remove_abandoned(name: str, older_than_s: float = ABANDONED_S) -> None:
    """Removes files whose maker was killed before everybody had opened them. `name` is a pattern, as of Path.glob."""
    for path in shared_memory_folder().glob(name):
        with contextlib.suppress(OSError, NotPrivateError):  # it is another user's, or gone, or somebody holds it
            if path.stat().st_mtime > time.time() - older_than_s:
                continue
            file = open_file(path)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(file)


def held_segments(name: str) -> list[str]:
    """The names of segments whose makers are alive. `name` is a pattern, as of Path.glob."""
    return sorted(path.name for path in shared_memory_folder().glob(name) if _is_held(path))


def _is_held(path: Path) -> bool:
    try:
        file = open_file(path)
    except (OSError, NotPrivateError):  # it is another user's, or gone
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def shared_memory_folder() -> Path:
    """Where files lie in memory; beyond Linux, on a disk."""
    return Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())


def _take(file: int, num_bytes: int) -> None:
    """Takes all of the memory now: a page that is touched when there is none left ends the process with SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, num_bytes)
    else:  # beyond Linux it is a file on a disk
        os.ftruncate(file, num_bytes)
