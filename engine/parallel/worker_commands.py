"""Rendezvous, worker commands and heartbeats: how the driver rank reaches its workers, in shared memory or over TCP.

There is one TCP connection to each rank in either case. Both ends first prove that they know the replica's token:

    first rank              nonce ->
    rank                 <- its number, nonce, HMAC over both nonces and the number
    first rank              HMAC over the same ->

A connection without a proof within HELLO_S is closed; unauthenticated connections take no rank's place and delay no
rank. Frames are not encrypted, but each is followed by its MAC (`Channel`): an attacker on the path can read commands,
not send any. When a connection ends, `on_loss` is called, so that the rest of the replica does not wait for the rank.

Once the replica is loaded, every rank sends a heartbeat each HEARTBEAT_S: the age of its running step. A stopped
process keeps its connection and sends none; engine/runtime/watchdog.py decides when a rank is lost.
"""

import contextlib
import hmac
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import NamedTuple, Protocol

import msgspec

from engine.scheduling.scheduler_output import SchedulerOutput

__all__ = [
    "MessageQueue",
    "Driver",
    "LoadBlock",
    "RankHeartbeat",
    "Rendezvous",
    "SaveBlock",
    "Worker",
    "WorkerCommand",
]


class SaveBlock(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Save the rank's shard of a block, as it is after the commands before this one."""

    name: bytes
    block: int
    is_state: bool = False  # a state's slot, and no block


class LoadBlock(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Load the rank's shard of a block."""

    block: int
    shares: tuple[bytes, ...]  # of the ranks from 1 on
    is_state: bool = False


class RankHeartbeat(NamedTuple):
    """A rank's last heartbeat."""

    num_heartbeats: int  # up to now
    age_s: float  # of its running step when it sent this; 0: it waits for a command


HEARTBEAT_S = 0.25  # between two heartbeats of a rank
HEARTBEAT = struct.Struct(">d")  # age of the running step
HELLO_S = 5.0  # for the handshake
MAX_UNAUTHENTICATED = 32  # connections at the same time; beyond it the oldest is closed
NONCE_BYTES = PROOF_BYTES = 32
HELLO = struct.Struct(f">I{NONCE_BYTES}s{PROOF_BYTES}s")  # rank, nonce, proof
HELLO_TRANSCRIPT = struct.Struct(f">I{NONCE_BYTES}s{NONCE_BYTES}s")  # rank, nonce of the first rank, its own
TAG_BYTES = 16
MAX_NUMBER_BYTES = 20
MAX_COMMAND_BYTES = 1 << 30

WorkerCommand = SchedulerOutput | SaveBlock | LoadBlock


class MessageQueue(Protocol):
    """Broadcasts messages from the driver to the workers (vLLM's MessageQueue). A lost rank raises RuntimeError."""

    def send(self, data: bytes) -> None: ...

    def receive(self) -> bytes: ...

    def abort(self) -> None: ...

    def unlink(self) -> None: ...

    def close(self) -> None: ...


class Rendezvous(msgspec.Struct, frozen=True):
    """The rendezvous of a replica's ranks: where and how they find each other. Made by the driver."""

    host: str
    port: int
    token: str
    size: int
    group: str  # name of the collectives' memory segment, or address of the process group
    commands: str = ""  # name of the message queue's memory segment; "": commands go over the connections
    cache_key: bytes | None = None  # keys the ranks' host tiers; None: no KV offload


class Driver:
    """The driver's end. Workers may join from its construction on, until all have."""

    def __init__(self, host: str, size: int, token: str, memory: MessageQueue | None = None) -> None:
        self._memory = memory
        self._joining = _JoiningRanks(host, size, token)
        self._ranks: list[Channel] = []
        self._heartbeats: list[RankHeartbeat] = []
        self.port: int = self._joining.port

    def all_reduce_min(self, num_blocks: int, timeout_s: float = 600.0) -> int:
        """All-reduce (minimum) of the KV blocks that each rank has memory for."""
        deadline_s = time.monotonic() + timeout_s
        self._ranks = self._joining.all(timeout_s)
        least = num_blocks
        for rank in self._ranks:
            rank.socket.settimeout(max(0.001, deadline_s - time.monotonic()))
            least = min(least, int(rank.receive(MAX_NUMBER_BYTES)))
            rank.socket.settimeout(None)
        for rank in self._ranks:
            rank.send(str(least).encode())
        return least

    def watch(self, on_loss: Callable[[], None]) -> None:
        """Listens to the ranks' heartbeats. Calls `on_loss`, in another thread, when a rank's connection ends."""
        self._heartbeats = [RankHeartbeat(0, 0.0) for _ in self._ranks]
        for index, rank in enumerate(self._ranks):
            listen = threading.Thread(target=self._listen, args=(index, rank, on_loss), name="rank-listen", daemon=True)
            listen.start()

    def heartbeats(self) -> tuple[RankHeartbeat, ...]:
        """The last heartbeats of the ranks from 1 on; () before `watch`. In any thread."""
        return tuple(self._heartbeats)

    def _listen(self, index: int, rank: "Channel", on_loss: Callable[[], None]) -> None:
        with contextlib.suppress(OSError, struct.error):
            while True:
                (age_s,) = HEARTBEAT.unpack(rank.receive(HEARTBEAT.size))
                self._heartbeats[index] = RankHeartbeat(self._heartbeats[index].num_heartbeats + 1, age_s)
        on_loss()

    def send(self, command: WorkerCommand) -> None:
        frame = msgspec.msgpack.encode(command)
        if self._memory is not None:
            self._memory.send(frame)
            return
        for rank in self._ranks:
            rank.send(frame)

    def close(self) -> None:
        self._joining.close()


class _JoiningRanks:
    """Accepts connections until every rank has joined with a valid proof."""

    def __init__(self, host: str, size: int, token: str) -> None:
        self._token, self._size = token.encode(), size
        self._listener = socket.create_server((host, 0))
        self._listener.settimeout(0.2)  # to notice the end
        self.port: int = self._listener.getsockname()[1]
        self._changed = threading.Condition()
        self._ranks: dict[int, Channel] = {}
        self._unauthenticated: dict[socket.socket, None] = {}  # connections in their handshake, the oldest first
        self._is_over = False
        threading.Thread(target=self._accept, name="rank-rendezvous", daemon=True).start()

    def all(self, timeout_s: float) -> "list[Channel]":
        """The connections of the ranks from 1 on. Raises TimeoutError if they have not all joined by then."""
        with self._changed:
            if not self._changed.wait_for(self._is_whole, timeout_s):
                missing = ", ".join(str(rank) for rank in range(1, self._size) if rank not in self._ranks)
                raise TimeoutError(f"of {self._size} ranks these have not come within {timeout_s:g} s: {missing}")
            return [self._ranks[rank] for rank in range(1, self._size)]

    def close(self) -> None:
        with self._changed:
            self._is_over = True
            for connection in self._unauthenticated:
                _shut(connection)  # and its thread closes it
            for channel in self._ranks.values():
                _shut(channel.socket)  # wakes the thread that watches it, which close alone does not
                channel.socket.close()

    def _is_whole(self) -> bool:
        return len(self._ranks) == self._size - 1

    def _accept(self) -> None:
        with self._listener:
            while True:
                with self._changed:
                    if self._is_over or self._is_whole():
                        break
                try:
                    connection, _ = self._listener.accept()
                except OSError:  # a timeout, a connection that is gone already, or no file descriptor left
                    time.sleep(0.01)
                    continue
                with self._changed:
                    self._unauthenticated[connection] = None
                    if len(self._unauthenticated) > MAX_UNAUTHENTICATED:
                        _shut(next(iter(self._unauthenticated)))  # a rank connects again
                threading.Thread(target=self._handshake, args=(connection,), name="rank-hello", daemon=True).start()
        with self._changed:
            for connection in self._unauthenticated:
                _shut(connection)

    def _handshake(self, connection: socket.socket) -> None:
        proven = None
        with contextlib.suppress(OSError):
            proven = self._verify(connection)
        with self._changed:
            del self._unauthenticated[connection]
            if proven is None or proven[0] in self._ranks or self._is_over:
                connection.close()
                return
            rank, channel = proven
            connection.settimeout(None)
            self._ranks[rank] = channel
            self._changed.notify_all()

    def _verify(self, connection: socket.socket) -> "tuple[int, Channel] | None":
        """The rank that connects, and its channel; None without a valid proof."""
        deadline_s = time.monotonic() + HELLO_S
        nonce = secrets.token_bytes(NONCE_BYTES)
        connection.settimeout(HELLO_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(nonce)
        hello = _exactly(connection, HELLO.size, deadline_s)
        rank, its_nonce, proof = HELLO.unpack(hello)
        transcript = HELLO_TRANSCRIPT.pack(rank, nonce, its_nonce)
        if not 0 < rank < self._size or not hmac.compare_digest(proof, _proof(self._token, b"rank", transcript)):
            return None
        connection.sendall(_proof(self._token, b"first", transcript))
        return int(rank), Channel(connection, self._token, transcript, is_first=True)


class Worker:
    """A worker's end. Raises TimeoutError or ConnectionError if the driver cannot be reached."""

    def __init__(
        self, rendezvous: Rendezvous, rank: int, memory: MessageQueue | None = None, timeout_s: float = 600.0
    ) -> None:
        self._memory = memory
        self._channel = _join(rendezvous, rank, timeout_s)
        self._socket = self._channel.socket
        self._socket.settimeout(timeout_s)
        self._began_s: float | None = None  # when the running command arrived
        self._is_over = threading.Event()

    def all_reduce_min(self, num_blocks: int) -> int:
        self._channel.send(str(num_blocks).encode())
        return int(self._channel.receive(MAX_NUMBER_BYTES))

    def watch(self, on_loss: Callable[[], None]) -> None:
        """Calls `on_loss`, in another thread, when the driver is gone. Only with a message queue."""
        if self._memory is not None:
            self._socket.settimeout(None)
            _watch(self._socket, on_loss)

    def start_heartbeats(self) -> None:
        """Starts a thread that sends heartbeats. A step must release the GIL."""
        threading.Thread(target=self._send_heartbeats, name="rank-heartbeat", daemon=True).start()

    def _send_heartbeats(self) -> None:
        with contextlib.suppress(OSError):
            while not self._is_over.wait(HEARTBEAT_S):
                began_s = self._began_s
                self._channel.send(HEARTBEAT.pack(0.0 if began_s is None else time.monotonic() - began_s))

    def commands(self) -> Iterator[WorkerCommand]:
        """The commands as they come, until the driver is gone. One counts as done when the next is asked for."""
        self._socket.settimeout(None)
        decoder: msgspec.msgpack.Decoder[WorkerCommand] = msgspec.msgpack.Decoder(WorkerCommand)
        while True:
            try:
                memory, channel = self._memory, self._channel
                frame = memory.receive() if memory is not None else channel.receive(MAX_COMMAND_BYTES)
            except (OSError, RuntimeError):
                return
            self._began_s = time.monotonic()
            yield decoder.decode(frame)
            self._began_s = None

    def close(self) -> None:
        self._is_over.set()
        _shut(self._socket)
        self._socket.close()


class Channel:
    """A connection whose ends are authenticated. One thread may send while another one receives.

    A frame is its length, its bytes, and a MAC over its number in its direction, its length and its bytes (BLAKE2b
    under a key of the connection and the direction). One that is not the next frame of the other end, whole and
    unchanged, raises ConnectionError.
    """

    def __init__(self, connection: socket.socket, token: bytes, transcript: bytes, is_first: bool) -> None:
        """`transcript`: the bytes that both proofs cover; `is_first`: this end is the first rank's."""
        self.socket = connection
        keys = [_proof(token, b"frames of the " + side, transcript) for side in (b"first", b"rank")]
        self._ours, self._theirs = (blake2b(key=key, digest_size=TAG_BYTES) for key in keys[:: 1 if is_first else -1])
        self._num_sent = self._num_received = 0

    def send(self, data: bytes) -> None:
        frame = struct.pack(">I", len(data)) + data
        self.socket.sendall(frame + _tag(self._ours, self._num_sent, frame))
        self._num_sent += 1

    def receive(self, most: int) -> bytes:
        """The next frame, of at most `most` bytes."""
        head = _exactly(self.socket, 4)
        (length,) = struct.unpack(">I", head)
        if length > most:
            raise ConnectionError(f"a frame has {length} bytes, must have at most {most}")
        data, tag = _exactly(self.socket, length), _exactly(self.socket, TAG_BYTES)
        if not hmac.compare_digest(tag, _tag(self._theirs, self._num_received, head + data)):
            raise ConnectionError("the MAC of a frame is wrong")
        self._num_received += 1
        return data


def _tag(keyed: "blake2b", number: int, frame: bytes) -> bytes:
    mac = keyed.copy()
    mac.update(number.to_bytes(8, "big"))
    mac.update(frame)
    return mac.digest()


def _join(rendezvous: Rendezvous, rank: int, timeout_s: float) -> Channel:
    """Connects, and again if the driver closed the connection for too many others."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        left_s = max(0.001, deadline_s - time.monotonic())
        connection = socket.create_connection((rendezvous.host, rendezvous.port), timeout=left_s)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return _authenticate(
                connection, rendezvous.token.encode(), rank, min(deadline_s, time.monotonic() + HELLO_S)
            )
        except OSError:
            connection.close()
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)


def _authenticate(connection: socket.socket, token: bytes, rank: int, deadline_s: float) -> Channel:
    nonce, its_nonce = secrets.token_bytes(NONCE_BYTES), _exactly(connection, NONCE_BYTES, deadline_s)
    transcript = HELLO_TRANSCRIPT.pack(rank, its_nonce, nonce)
    connection.sendall(HELLO.pack(rank, nonce, _proof(token, b"rank", transcript)))
    if not hmac.compare_digest(_exactly(connection, PROOF_BYTES, deadline_s), _proof(token, b"first", transcript)):
        raise ConnectionError("the first rank does not know the token")
    return Channel(connection, token, transcript, is_first=False)


def _proof(token: bytes, who: bytes, transcript: bytes) -> bytes:
    return hmac.digest(token, who + b"\0" + transcript, "sha256")


def _shut(connection: socket.socket) -> None:
    """Shuts the connection down, which wakes a thread that reads from it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _watch(connection: socket.socket, on_loss: Callable[[], None]) -> None:
    def wait() -> None:
        with contextlib.suppress(OSError):
            connection.recv(1)  # nothing more is sent on it
        on_loss()

    threading.Thread(target=wait, daemon=True).start()


def _exactly(source: socket.socket, count: int, deadline_s: float | None = None) -> bytes:
    """Receives `count` bytes. Raises TimeoutError at the deadline, however slowly they come."""
    parts = []
    while count:
        if deadline_s is not None:
            source.settimeout(max(0.001, deadline_s - time.monotonic()))
        part = source.recv(min(count, 1 << 20))
        if not part:
            raise ConnectionError("the other rank closed the connection")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
