"""A broadcast message queue in shared memory: one writer, many readers of one machine (vLLM's MessageQueue). In C."""

import ctypes
from pathlib import Path

from kernels.native.compiler import Compiler
from kernels.native.shm_group import ShmGroup

__all__ = ["ShmMessageQueue"]

LINE = 64
CAPACITY = 1 << 20  # bytes of one piece; longer messages go in several


class ShmMessageQueue(ShmGroup):
    """One rank's end. Rank 0 sends, every other rank receives every message, in order.

    A call raises RuntimeError once the group is aborted.
    """

    def __init__(self, compiler: Compiler, name: str, rank: int, size: int, timeout_s: float) -> None:
        """Rank 0 makes the segment `name`, the others open it. A message must be taken within `timeout_s`."""
        super().__init__(compiler, Path(__file__).with_name("cpu.c"), name, rank, LINE * (1 + size) + CAPACITY)
        self._rank, self._num_receivers, self._timeout_s = rank, size - 1, timeout_s
        number, address = ctypes.c_int64, ctypes.c_void_p
        library = self._library
        self._send, self._await, self._take = library.send_piece, library.await_piece, library.take_piece
        self._send.argtypes = [address, number, ctypes.c_char_p, number, number, ctypes.c_double]
        self._await.argtypes = [address, number, ctypes.POINTER(number), ctypes.POINTER(number)]
        self._take.argtypes = [address, number, number, ctypes.c_char_p, number]
        self._take.restype = None

    def send(self, data: bytes) -> None:
        for start in range(0, max(1, len(data)), CAPACITY):
            piece = data[start : start + CAPACITY]
            is_last = start + CAPACITY >= len(data)
            failed = self._send(self._segment.address, self._num_receivers, piece, len(piece), is_last, self._timeout_s)
            if failed:
                raise RuntimeError("another rank is gone" if failed == 1 else "another rank does not take its plans")

    def receive(self) -> bytes:
        """The next message. Waits for it as long as it takes, asleep."""
        pieces = []
        num_bytes, is_last = ctypes.c_int64(), ctypes.c_int64()
        while not is_last.value:
            if self._await(self._segment.address, self._rank - 1, num_bytes, is_last):
                raise RuntimeError("another rank is gone")
            piece = ctypes.create_string_buffer(num_bytes.value)
            self._take(self._segment.address, self._num_receivers, self._rank - 1, piece, num_bytes.value)
            pieces.append(piece.raw)
        return b"".join(pieces)
