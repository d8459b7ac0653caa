"""Memory that processes of one machine share, under a name."""

import ctypes
import mmap
import os
import tempfile
from pathlib import Path

from kernels.native.private import make_file, open_file

__all__ = ["Segment"]


class Segment:
    """One process's end. `address` is None once it is closed."""

    def __init__(self, name: str, num_bytes: int, is_maker: bool) -> None:
        """The maker makes it, full of zeros; the others open it. OSError: there is not so much memory."""
        # a plain file in memory: multiprocessing's SharedMemory is removed with the first process that ends (bpo-38119)
        self._path = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()) / name
        self._is_maker = is_maker
        file = make_file(self._path) if is_maker else open_file(self._path)
        try:
            if is_maker:
                _take(file, num_bytes)
            self._memory = mmap.mmap(file, num_bytes)
        except BaseException:
            self.forget_name()
            raise
        finally:
            os.close(file)
        self._anchor: ctypes.c_char | None = ctypes.c_char.from_buffer(self._memory)
        self.address: int | None = ctypes.addressof(self._anchor)

    def forget_name(self) -> None:
        """Everybody has opened it: nothing stays behind, however its processes end."""
        if self._is_maker:
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        if self.address is not None:
            self.address = self._anchor = None
            self._memory.close()
            self.forget_name()


def _take(file: int, num_bytes: int) -> None:
    """Takes all of the memory now: a page that is touched when there is none left ends the process with SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, num_bytes)
    else:  # beyond Linux it is a file on a disk
        os.ftruncate(file, num_bytes)
