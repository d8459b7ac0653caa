"""The wire protocol: the frames between an ingress and a replica, and how they are written.

A frame is a 4-byte big-endian length and that many bytes of msgpack: one tagged struct of the list below. Nothing is
ever pickled. A frame that is too long, does not parse or has no place at that point ends the connection.

    replica   Challenge ->                                     a fresh nonce
    ingress             <- Hello                               a nonce of its own, proves the secret over both
    replica   Welcome   ->                                     says who it is and what it holds
    ingress             <- Submit, Stop, Ask, Beat, Fetch, Keep, ListEntries ...
    replica   Report, Beat, Drain, Fetched, Kept, Entries ...  ->

Every frame after the Hello is followed by a MAC of TAG_BYTES: BLAKE2b over the frame's number in its direction and its
bytes, under a key of the connection and the direction, derived from the secret and both nonces (`Seal`). An attacker on
the path can read frames, but a frame that is changed, injected, replayed, dropped or reordered ends the connection. The
Welcome's MAC is the replica's first, which proves that it knows the secret too. A MAC is checked before its frame is
decoded.
"""

import asyncio
import hmac
import struct
from hashlib import blake2b, sha256
from typing import TypeVar

import msgspec

from cluster.state_shard import Entry, EntryName, StateLimits
from engine.types import EngineOutputs, EngineStatus, GenerateRequest, StepAges

__all__ = [
    "PROTOCOL_VERSION",
    "Ask",
    "Heartbeat",
    "Challenge",
    "Drain",
    "Entries",
    "Fetch",
    "Fetched",
    "FromIngress",
    "FromReplica",
    "Hello",
    "Keep",
    "Kept",
    "ListEntries",
    "Report",
    "Seal",
    "Stop",
    "Submit",
    "Welcome",
    "WireError",
    "encode",
    "prove",
    "read_frame",
]

PROTOCOL_VERSION = 6
NONCE_BYTES = 32
TAG_BYTES = 16


class WireError(Exception):
    """The peer violated the protocol; the connection ends."""


class _Frame(msgspec.Struct, frozen=True, array_like=True, tag_field="t", forbid_unknown_fields=True):
    pass


class Challenge(_Frame, frozen=True, array_like=True, tag=0):
    version: int
    nonce: bytes


class Hello(_Frame, frozen=True, array_like=True, tag=1):
    version: int
    ingress_id: str
    nonce: bytes
    proof: bytes


class Welcome(_Frame, frozen=True, array_like=True, tag=2):
    replica_id: str
    block_size: int
    status: EngineStatus
    block_hashes: tuple[bytes, ...] = ()  # of the blocks cached there now; KV events follow in reports


class Submit(_Frame, frozen=True, array_like=True, tag=3):
    request: GenerateRequest


class Stop(_Frame, frozen=True, array_like=True, tag=4):
    request_id: str
    index: int | None = None  # None: the whole request


class Heartbeat(_Frame, frozen=True, array_like=True, tag=5):
    status: EngineStatus | None = None  # of a replica
    ages: StepAges | None = None  # of a replica


class Report(_Frame, frozen=True, array_like=True, tag=6):
    report: EngineOutputs


class Drain(_Frame, frozen=True, array_like=True, tag=7):
    """The replica drains: submit nothing new, migrate the streams."""


class Ask(_Frame, frozen=True, array_like=True, tag=8):
    """Asks for the state of requests, which a report has behind all their outputs."""

    request_ids: tuple[str, ...]


class Fetch(_Frame, frozen=True, array_like=True, tag=9):
    """Asks for an entry of the state that replicas keep for ingresses; Fetched answers."""

    call: int
    name: EntryName


class Fetched(_Frame, frozen=True, array_like=True, tag=10):
    call: int
    entry: Entry


class Keep(_Frame, frozen=True, array_like=True, tag=11):
    """Puts an entry, if it is newer than the one there; Kept answers."""

    call: int
    name: EntryName
    entry: Entry
    limits: StateLimits


class Kept(_Frame, frozen=True, array_like=True, tag=12):
    call: int
    is_newest: bool


class ListEntries(_Frame, frozen=True, array_like=True, tag=13):
    """Asks which entries of a kind are there; Entries answers."""

    call: int
    kind: str


class Entries(_Frame, frozen=True, array_like=True, tag=14):
    call: int
    versions: tuple[tuple[str, str, int], ...]  # owner, key, version


FromIngress = Hello | Submit | Stop | Ask | Heartbeat | Fetch | Keep | ListEntries
FromReplica = Challenge | Welcome | Report | Heartbeat | Drain | Fetched | Kept | Entries

_Kind = TypeVar("_Kind")


def encode(frame: FromIngress | FromReplica) -> bytes:
    body = msgspec.msgpack.encode(frame)
    return struct.pack(">I", len(body)) + body


class Seal:
    """The MACs of one direction of a connection, frame by frame. Each end has one for each direction."""

    def __init__(self, secret: bytes, side: bytes, replica_nonce: bytes, ingress_nonce: bytes) -> None:
        """`side` sends these frames: b"ingress" or b"replica"."""
        key = prove(secret, b"frames of the " + side, replica_nonce, ingress_nonce)
        self._keyed = blake2b(key=key, digest_size=TAG_BYTES)
        self._num_frames = 0

    def tag(self, frame: bytes) -> bytes:
        """The MAC of the next frame, with its length."""
        mac = self._keyed.copy()
        mac.update(self._num_frames.to_bytes(8, "big"))
        mac.update(frame)
        self._num_frames += 1
        return mac.digest()


async def read_frame(
    reader: asyncio.StreamReader,
    decoder: "msgspec.msgpack.Decoder[_Kind]",
    max_frame_bytes: int,
    seal: Seal | None = None,
) -> _Kind:
    """The next frame, which is followed by its MAC if there is a `seal`.

    Raises WireError for anything else, IncompleteReadError at the end of the stream.
    """
    head = await reader.readexactly(4)
    (length,) = struct.unpack(">I", head)
    if length > max_frame_bytes:
        raise WireError(f"a frame of {length} bytes, {max_frame_bytes} are allowed")
    body = await reader.readexactly(length)
    if seal is not None and not hmac.compare_digest(await reader.readexactly(TAG_BYTES), seal.tag(head + body)):
        raise WireError("the MAC of a frame is wrong")
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise WireError(f"not a frame: {error}") from None


def prove(secret: bytes, side: bytes, replica_nonce: bytes, ingress_nonce: bytes) -> bytes:
    """HMAC-SHA256 over the side and both nonces: proof of the secret, fresh for this connection (RFC 2104)."""
    return hmac.new(secret, side + b"\0" + replica_nonce + b"\0" + ingress_nonce, sha256).digest()
