"""A group of processes of one machine over one shared-memory segment: opened by rank 0, aborted by any rank, closed."""

import ctypes
import threading
from pathlib import Path

from kernels.native.compiler import Compiler
from kernels.native.segment import Segment

__all__ = ["ShmGroup"]


class ShmGroup:
    """One rank's end. `_library` is the compiled cpu.c of the operation, which exports `abort_group(segment)`."""

    def __init__(self, compiler: Compiler, source: Path, name: str, rank: int, num_bytes: int) -> None:
        """Rank 0 makes the segment `name`, the others open it."""
        self._segment = Segment(name, num_bytes, is_maker=rank == 0)
        self._lock = threading.Lock()  # between abort and close
        self._library = compiler.load(source)
        self._library.abort_group.argtypes = [ctypes.c_void_p]
        self._library.abort_group.restype = None

    def abort(self) -> None:
        """Every call that waits, here and in the other ranks, raises RuntimeError, as does every later one."""
        with self._lock:
            if self._segment.address is not None:
                self._library.abort_group(self._segment.address)

    def unlink(self) -> None:
        """Removes the segment's name once every rank has opened it."""
        self._segment.forget_name()

    def close(self) -> None:
        """Unmaps the segment. No call but `abort` may follow."""
        with self._lock:
            self._segment.close()
