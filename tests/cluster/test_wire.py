"""The wire's port, seen by strangers and through broken networks."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from cluster.link import connect
from cluster.replicas import Replicas
from cluster.wire import PROTOCOL_VERSION, Challenge, Hello, WireError, encode, prove, read_frame
from scripts.bench.attacks import KINDS
from scripts.bench.fuzz import fuzz
from tests.cluster.local import SECRET, WIRE, LocalCluster, _nobody_to_ask, local_cluster, new_router
from tests.cluster.test_client import assert_is, collect
from tests.engine.toy import request

Address = tuple[str, int]


async def test_a_stranger_without_the_secret_is_turned_away() -> None:
    async with local_cluster(1) as cluster:
        (address,) = cluster.addresses
        for secret in (b"", b"wrong", SECRET + b"x"):
            with pytest.raises(WireError):
                await connect(*address, "stranger", secret, WIRE, lambda _: None)
        assert_is(await collect(cluster.client, request("a", [1])), request("a", [1]))


async def test_an_impostor_replica_learns_nothing_and_is_left() -> None:
    heard: list[Hello] = []

    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode(Challenge(PROTOCOL_VERSION, b"n" * 32)))
        heard.append(await read_frame(reader, msgspec.msgpack.Decoder(Hello), 4096))
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(impostor, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()[:2]
        with pytest.raises(WireError):
            await connect(host, port, "ingress", SECRET, WIRE, lambda _: None)
    assert SECRET not in heard[0].proof
    assert heard[0].proof == prove(SECRET, b"ingress", b"n" * 32, heard[0].nonce)


async def test_hostile_peers_harm_nobody() -> None:
    result = await fuzz(num_frames=500, num_streams=3, seed=3)
    assert sum(result["counts"].values()) == 500 and len(KINDS) - len(result["counts"]) < 3
    assert 250 < result["turned_away"] < 500


class Cable:
    """Carries bytes between an ingress and a replica until it is cut: then it stays silent, without closing."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._is_cut = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def cut(self) -> None:
        self._is_cut.set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection(*self._target)
        except ConnectionError:
            writer.transport.abort()
            return
        await asyncio.gather(self._pump(reader, there[1]), self._pump(there[0], writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                if not self._is_cut.is_set():
                    writer.write(data)
        except ConnectionError:
            pass
        writer.transport.abort()


def through(
    cluster: LocalCluster, cables: dict[tuple[str, int], tuple[str, int]]
) -> Callable[[], Awaitable[list[tuple[str, int]]]]:
    async def discover() -> list[Address]:
        return [cables[address] for address in cluster.addresses]

    return discover


async def test_streams_leave_a_replica_that_falls_silent_and_new_requests_avoid_it() -> None:
    async with local_cluster(2) as cluster:
        wires = {}
        cables = {}
        servers = []
        for address in cluster.addresses:
            cables[address] = Cable(address)
            server = await asyncio.start_server(cables[address].carry, "127.0.0.1", 0)
            servers.append(server)
            wires[address] = server.sockets[0].getsockname()[:2]
        client = cluster.new_client()
        client._replicas = {
            "toy": Replicas(through(cluster, wires), _nobody_to_ask, "ingress-2", SECRET, WIRE, new_router())
        }
        client.start()
        async with asyncio.timeout(30):
            while len(client._replicas["toy"].up) < 2:
                await asyncio.sleep(0.01)
        asked = [request(f"r{i}", [i, 3], max_tokens=500, seed=i) for i in range(12)]
        running = asyncio.gather(*(collect(client, one) for one in asked))
        await asyncio.sleep(0.2)
        cables[cluster.addresses[0]].cut()
        early = [request(f"early{i}", [i], max_tokens=2) for i in range(6)]  # nobody knows yet that one is silent
        async with asyncio.timeout(WIRE.dead_s):
            for one, chunks in zip(early, await asyncio.gather(*(collect(client, one) for one in early)), strict=True):
                assert_is(chunks, one)
        await asyncio.sleep(WIRE.suspect_s + 0.05)
        late = request("late", [1, 2], max_tokens=3)
        async with asyncio.timeout(WIRE.dead_s / 2):
            assert_is(await collect(client, late), late)
        for one, chunks in zip(asked, await running, strict=True):
            assert_is(chunks, one)
        await client.close()
        for server in servers:
            server.close()
        await asyncio.sleep(0.05)
