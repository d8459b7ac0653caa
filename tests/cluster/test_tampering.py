"""Somebody on the path between an ingress and a replica changes what passes: the connection ends, no stream does."""

import asyncio
import contextlib
import logging
import struct
from collections.abc import AsyncIterator, Callable

import pytest

from cluster.replicas import Replicas
from cluster.wire import NONCE_BYTES, TAG_BYTES, Heartbeat, Seal, encode
from tests.cluster.local import SECRET, LocalCluster, _nobody_to_ask, local_cluster, new_router
from tests.cluster.test_client import PATIENT, assert_is, collect
from tests.engine.toy import request

AFTER_FRAMES = {"ingress": 10, "replica": 25}  # pass as they are; an ingress sends few while streams run

Tamper = Callable[[list[bytes]], list[bytes]]  # of the frames up to now, the last one not passed yet: what passes


def flips_a_bit(frames: list[bytes]) -> list[bytes]:
    at = len(frames[-1]) // 2
    return [frames[-1][:at] + bytes([frames[-1][at] ^ 1]) + frames[-1][at + 1 :]]


def flips_a_bit_of_the_mac(frames: list[bytes]) -> list[bytes]:
    return [frames[-1][:-1] + bytes([frames[-1][-1] ^ 1])]


def injects_a_frame(frames: list[bytes]) -> list[bytes]:
    return [encode(Heartbeat()) + bytes(TAG_BYTES), frames[-1]]


def repeats_a_frame(frames: list[bytes]) -> list[bytes]:
    return [frames[-1], frames[-1]]


def repeats_an_old_frame(frames: list[bytes]) -> list[bytes]:
    return [frames[2], frames[-1]]


def drops_a_frame(frames: list[bytes]) -> list[bytes]:
    return []


class Man:
    """In the middle. He tampers once with frames of one side, "ingress" or "replica", and lets all else pass."""

    def __init__(self, target: tuple[str, int], side: str, tamper: Tamper) -> None:
        self._target, self._side, self._tamper = target, side, tamper
        self.has_tampered = False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection(*self._target)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.write(await self._frame(there, 0))  # Challenge
            to_there.write(await self._frame(reader, 0))  # Hello
            await asyncio.gather(
                self._pass_on(reader, to_there, "ingress"),
                self._pass_on(there, writer, "replica"),
            )
        writer.transport.abort()
        to_there.transport.abort()

    async def _frame(self, reader: asyncio.StreamReader, num_more: int) -> bytes:
        head = await reader.readexactly(4)
        return head + await reader.readexactly(struct.unpack(">I", head)[0] + num_more)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, side: str) -> None:
        frames: list[bytes] = []
        while True:
            frames.append(await self._frame(reader, TAG_BYTES))
            passed = frames[-1:]
            if side == self._side and not self.has_tampered and len(frames) > AFTER_FRAMES[side]:
                self.has_tampered = True
                passed = self._tamper(frames)
            writer.write(b"".join(passed))


@contextlib.asynccontextmanager
async def watched(cluster: LocalCluster, side: str, tamper: Tamper) -> AsyncIterator[Man]:
    """The cluster's client, with a man before the first replica."""
    first, second = cluster.addresses
    man = Man(first, side, tamper)
    async with await asyncio.start_server(man.carry, "127.0.0.1", 0) as server:
        addresses = [server.sockets[0].getsockname()[:2], second]

        async def discover() -> list[tuple[str, int]]:
            return addresses

        replicas = Replicas(discover, _nobody_to_ask, "ingress-2", SECRET, cluster.wire, new_router())
        cluster.client._replicas = {"toy": replicas}
        cluster.client.start()
        async with asyncio.timeout(30):
            while len(replicas.up) < 2:
                await asyncio.sleep(0.01)
        yield man
        await cluster.client.close()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("side", ["ingress", "replica"])
@pytest.mark.parametrize(
    "tamper",
    [
        flips_a_bit,
        flips_a_bit_of_the_mac,
        injects_a_frame,
        repeats_a_frame,
        repeats_an_old_frame,
        drops_a_frame,
    ],
)
async def test_a_frame_that_was_tampered_with_ends_the_connection_and_no_stream(
    side: str, tamper: Tamper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with local_cluster(2, PATIENT) as cluster:
        before = cluster.client._replicas["toy"]
        async with watched(cluster, side, tamper) as man:
            asked = [request(f"r{number}", [number, 3], max_tokens=150, seed=number) for number in range(16)]
            running = asyncio.gather(*(collect(cluster.client, one) for one in asked))
            async with asyncio.timeout(20):
                while not man.has_tampered:
                    await asyncio.sleep(0.01)
                assert not running.done(), "no stream was left to end"
                for one, chunks in zip(asked, await running, strict=True):
                    assert_is(chunks, one)
                while "the MAC of a frame is wrong" not in caplog.text:
                    await asyncio.sleep(0.01)
        await before.close()


async def test_the_keys_are_of_one_connection_and_one_direction() -> None:
    ours, theirs = bytes(NONCE_BYTES), bytes([1]) * NONCE_BYTES
    seals = [
        Seal(SECRET, b"ingress", ours, theirs),
        Seal(SECRET, b"replica", ours, theirs),
        Seal(SECRET, b"ingress", theirs, ours),
        Seal(SECRET + b"x", b"ingress", ours, theirs),
    ]
    tags = [seal.tag(b"frame") for seal in seals] + [seals[0].tag(b"frame")]
    assert len(set(tags)) == 5
    assert Seal(SECRET, b"ingress", ours, theirs).tag(b"frame") == tags[0]
