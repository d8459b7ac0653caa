"""How the first rank tells the others what to do: a frame per order, through memory on one node, else over TCP.

There is one TCP connection to each rank in any case. Whoever connects first sends the token that only ranks of this
replica know. When a connection ends, the rest of the replica must not wait for it: `on_loss` is called.
"""

import contextlib
import hmac
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from engine.plan import StepPlan

__all__ = ["Follower", "Leader", "LoadBlock", "Meeting", "Order", "PlanMemory", "SaveBlock"]


class SaveBlock(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Keep your share of a block, as it is after the orders up to now."""

    name: bytes
    block: int


class LoadBlock(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Fill your share of a block."""

    block: int
    shares: tuple[bytes, ...]  # of the ranks from 1 on


Order = StepPlan | SaveBlock | LoadBlock


class PlanMemory(Protocol):
    """Takes frames from the first rank to the others. A rank that is gone is a RuntimeError."""

    def send(self, data: bytes) -> None: ...

    def receive(self) -> bytes: ...

    def give_up(self) -> None: ...

    def forget_name(self) -> None: ...

    def close(self) -> None: ...


class Meeting(msgspec.Struct, frozen=True):
    """Where and how the ranks of a replica find each other. Made by the first rank."""

    host: str
    port: int
    token: str
    size: int
    group: str  # name of the memory segment for sums, or address of the process group
    plans: str = ""  # name of the memory segment for orders; "": they go over the connections
    cache_key: bytes | None = None  # keys what the ranks keep for other replicas; None: they keep nothing


class Leader:
    """The first rank's end. Every rank must `join` within `timeout_s`."""

    def __init__(self, host: str, size: int, token: str, memory: PlanMemory | None = None) -> None:
        self._memory = memory
        self._listener = socket.create_server((host, 0))
        self._token = token.encode()
        self._size = size
        self._ranks: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]

    def agree(self, num_blocks: int, timeout_s: float = 600.0) -> int:
        """Waits until every rank has said how many KV blocks it has room for; tells all the least."""
        self._listener.settimeout(timeout_s)
        least = num_blocks
        while len(self._ranks) < self._size - 1:
            rank, _ = self._listener.accept()
            rank.settimeout(timeout_s)
            if not hmac.compare_digest(_receive(rank), self._token):
                rank.close()
                continue
            rank.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            least = min(least, int(_receive(rank)))
            rank.settimeout(None)
            self._ranks.append(rank)
        self._listener.close()
        for rank in self._ranks:
            _send(rank, str(least).encode())
        return least

    def watch(self, on_loss: Callable[[], None]) -> None:
        """Calls `on_loss`, in another thread, when a rank's connection ends."""

        for rank in self._ranks:
            _watch(rank, on_loss)

    def send(self, order: Order) -> None:
        frame = msgspec.msgpack.encode(order)
        if self._memory is not None:
            self._memory.send(frame)
            return
        for rank in self._ranks:
            _send(rank, frame)

    def close(self) -> None:
        self._listener.close()
        for rank in self._ranks:
            with contextlib.suppress(OSError):
                rank.shutdown(socket.SHUT_RDWR)  # wakes the thread that watches it, which close alone does not
            rank.close()


class Follower:
    """Another rank's end."""

    def __init__(self, meeting: Meeting, memory: PlanMemory | None = None, timeout_s: float = 600.0) -> None:
        self._memory = memory
        self._socket = socket.create_connection((meeting.host, meeting.port), timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _send(self._socket, meeting.token.encode())

    def agree(self, num_blocks: int) -> int:
        _send(self._socket, str(num_blocks).encode())
        return int(_receive(self._socket))

    def watch(self, on_loss: Callable[[], None]) -> None:
        """Calls `on_loss`, in another thread, when the first rank is gone. Only where plans come through memory."""
        if self._memory is not None:
            self._socket.settimeout(None)
            _watch(self._socket, on_loss)

    def orders(self) -> Iterator[Order]:
        """As they come, until the first rank is gone."""
        self._socket.settimeout(None)
        decoder: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)
        while True:
            try:
                frame = self._memory.receive() if self._memory is not None else _receive(self._socket)
            except (OSError, RuntimeError):
                return
            yield decoder.decode(frame)


def _watch(connection: socket.socket, on_loss: Callable[[], None]) -> None:
    def wait() -> None:
        with contextlib.suppress(OSError):
            connection.recv(1)  # nothing more is said on it
        on_loss()

    threading.Thread(target=wait, daemon=True).start()


def _send(to: socket.socket, data: bytes) -> None:
    to.sendall(struct.pack(">I", len(data)) + data)


def _receive(source: socket.socket) -> bytes:
    (length,) = struct.unpack(">I", _exactly(source, 4))
    return _exactly(source, length)


def _exactly(source: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = source.recv(min(count, 1 << 20))
        if not part:
            raise ConnectionError("the other rank closed the connection")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
