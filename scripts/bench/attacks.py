"""Wire fuzz: the frames of a broken or hostile peer on the wire's port."""

import asyncio
import random
import socket
import struct
from collections.abc import Callable

import msgspec

from cluster.wire import (
    PROTOCOL_VERSION,
    Ask,
    Challenge,
    Drain,
    FromIngress,
    FromReplica,
    Heartbeat,
    Hello,
    Seal,
    Stop,
    Submit,
    encode,
    prove,
    read_frame,
)
from engine.types import BeamParams, GenerateRequest, Grammar, SamplingParams, TokenSpan

__all__ = ["KINDS", "attack"]

Say = Callable[[random.Random], list[bytes]]  # the frames, sealed one after the other if the hello is right


def _mutated(data: bytes, rng: random.Random) -> bytes:
    """The data with a few bytes changed, inserted, deleted or repeated."""
    spoiled = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(spoiled) + 1)
        match rng.randrange(5):
            case 0 | 1 if at < len(spoiled):
                spoiled[at] = rng.randrange(256)
            case 2:
                spoiled[at:at] = rng.randbytes(rng.randint(1, 9))
            case 3:
                del spoiled[at : at + rng.randint(1, 9)]
            case _:
                spoiled[at:at] = spoiled[at : at + rng.randint(1, 32)]
    return bytes(spoiled)


def _good(rng: random.Random) -> bytes:
    frames: list[FromIngress] = [
        Submit(_request(rng, max_tokens=3, seed=rng.randrange(99))),
        Submit(_request(rng, max_tokens=2, logit_bias=((1, 2.0),), bad_words=((1, 2),))),
        Stop("fuzz"),
        Stop("fuzz", rng.randrange(3)),
        Ask(("fuzz", "never seen", "")),
        Heartbeat(),
        Hello(PROTOCOL_VERSION, "again", b"", b""),
    ]
    return encode(rng.choice(frames))


def _others(rng: random.Random) -> list[bytes]:
    """A frame that only a replica may send."""
    frames: list[FromReplica] = [Drain(), Challenge(PROTOCOL_VERSION, b"x")]
    return [encode(rng.choice(frames))]


def _request(rng: random.Random, **sampling: object) -> GenerateRequest:
    return GenerateRequest(
        request_id=rng.choice(["fuzz", "", "é" * 20, "0:0"]),
        model="stub",
        inputs=(TokenSpan(tuple(rng.randrange(50) for _ in range(rng.randint(1, 40)))),),
        sampling=SamplingParams(**sampling),  # type: ignore[arg-type]
        grammar=rng.choice([None, None, Grammar("start: /a+/")]),
        n=rng.randint(1, 3),
    )


def _absurd(rng: random.Random) -> list[bytes]:
    """A well-formed frame with absurd values."""
    request = GenerateRequest(
        request_id="fuzz",
        model=rng.choice(["stub", "", "other"]),
        inputs=(TokenSpan(rng.choice([(), (0,), (-1,), (2**40,), (1,) * 100_000])),),
        sampling=SamplingParams(max_tokens=rng.choice([-1, 0, 1, 2**62]), seed=-(2**63), min_tokens=-5),
        beam=rng.choice([None, BeamParams(0), BeamParams(2**40)]),
        n=rng.choice([-1, 0, 1, 2, 2**62]),
        priority=rng.choice([-(2**63), 0, 2**63 - 1]),
        resume=rng.choice([(), (None,), ((1, 2),), (None, None), ((-1,), (2**50,))]),
    )
    return [encode(Submit(request))]


def _length(rng: random.Random) -> list[bytes]:
    """A length that is too large, or that the frame does not have."""
    return [struct.pack(">I", rng.choice([0, 1, 2**24 + 1, 2**31, 2**32 - 1])) + rng.randbytes(rng.randint(0, 40))]


def _noise(rng: random.Random) -> list[bytes]:
    return [rng.randbytes(rng.randint(1, 200))]


# kind -> (the hello before it: "right", "wrong", "mutated" or "none"; the frames behind it).
# "unsealed" is a right hello without MACs behind it
KINDS: dict[str, tuple[str, Say]] = {
    "mutated frame": ("right", lambda rng: [_mutated(_good(rng), rng)]),
    "mutated frame after good ones": ("right", lambda rng: [_good(rng), _mutated(_good(rng), rng)]),
    "absurd request": ("right", _absurd),
    "frame of the other side": ("right", _others),
    "length": ("right", _length),
    "noise": ("right", _noise),
    "frame with a wrong MAC": ("unsealed", lambda rng: [_good(rng), rng.randbytes(16)]),
    "mutated hello": ("mutated", lambda rng: [_good(rng)]),
    "wrong secret": ("wrong", lambda rng: [_good(rng)]),
    "length before the hello": ("none", _length),
    "frame before the hello": ("none", lambda rng: [_good(rng)]),
    "noise before the hello": ("none", _noise),
}
WEIGHTS = [40, 15, 5, 3, 6, 6, 5, 15, 4, 2, 2, 2]


async def attack(address: tuple[str, int], secret: bytes, rng: random.Random) -> str:
    """Connects, sends one hostile frame, and returns its kind when the replica has ended the connection.

    Raises TimeoutError if it does not.
    """
    (kind,) = rng.choices(list(KINDS), WEIGHTS)
    hello, say = KINDS[kind]
    reader, writer = await asyncio.open_connection(*address)
    try:
        async with asyncio.timeout(20):
            challenge = await read_frame(reader, msgspec.msgpack.Decoder(Challenge), 4096)
            known = secret if hello != "wrong" else rng.choice([b"", b"wrong", secret + b"x"])
            proof = prove(known, b"ingress", challenge.nonce, b"x")
            said = encode(Hello(PROTOCOL_VERSION, "fuzz", b"x", proof)) if hello != "none" else b""
            writer.write(_mutated(said, rng) if hello == "mutated" else said)
            seal = Seal(known, b"ingress", challenge.nonce, b"x")
            writer.write(b"".join(one + seal.tag(one) if hello == "right" else one for one in say(rng)))
            writer.write_eof()
            while await reader.read(65536):
                pass
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        # a reset: a hundred thousand ports must not stay in TIME_WAIT
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    return kind
