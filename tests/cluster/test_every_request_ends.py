"""No request is silent for ever: whatever is lost on the wire or in an engine, it ends, and says how."""

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cluster.client import ClusterClient
from cluster.replicas import Replicas
from cluster.wire import Challenge, FromReplica, Hello, Report, Seal, encode, read_frame
from engine.engine import Engine
from engine.errors import EngineFailed, MantaError, Unavailable
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput
from engine.types import GenerateRequest
from tests.cluster.local import SECRET, WIRE, LocalCluster, _nobody_to_ask, local_cluster, new_router
from tests.cluster.test_client import assert_is, collect
from tests.engine.toy import ToyExecutor, request

Address = tuple[str, int]


class LossyWire:
    """Passes on what one replica says, but for some of its reports."""

    def __init__(self, target: Address, chance: float, rng: random.Random) -> None:
        self._target, self._chance, self._rng = target, chance, rng
        self.num_lost = 0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = None
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            replica, to_replica = await asyncio.open_connection(*self._target)
            challenge = await read_frame(replica, msgspec.msgpack.Decoder(Challenge), 4096)
            writer.write(encode(challenge))
            hello = await read_frame(reader, msgspec.msgpack.Decoder(Hello), 4096)
            to_replica.write(encode(hello))
            theirs, ours = (Seal(SECRET, b"replica", challenge.nonce, hello.nonce) for _ in range(2))
            there = asyncio.create_task(self._pass_on(reader, to_replica))
            decoder = msgspec.msgpack.Decoder(FromReplica)
            while True:
                frame = await read_frame(replica, decoder, WIRE.max_frame_bytes, theirs)
                if isinstance(frame, Report) and self._rng.random() < self._chance:
                    self.num_lost += 1
                else:
                    told = encode(frame)
                    writer.write(told + ours.tag(told))
                await writer.drain()
        writer.transport.abort()
        if there is not None:
            there.cancel()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.transport.abort()


@contextlib.asynccontextmanager
async def lossy_client(cluster: LocalCluster, chance: float, seed: int) -> AsyncIterator[ClusterClient]:
    async with contextlib.AsyncExitStack() as stack:
        places = []
        for address in cluster.addresses:
            wire = LossyWire(address, chance, random.Random(f"{seed} {len(places)}"))
            server = await asyncio.start_server(wire.carry, "127.0.0.1", 0)
            stack.callback(server.close)
            places.append(server.sockets[0].getsockname()[:2])

        async def discover() -> list[Address]:
            return places

        replicas = Replicas(discover, _nobody_to_ask, "lossy", SECRET, WIRE, new_router())
        client = ClusterClient({"toy": replicas}, WIRE, 1000, cache_key=SECRET)
        client.start()
        stack.push_async_callback(client.close)
        async with asyncio.timeout(30):
            while len(replicas.up) < len(places):
                await asyncio.sleep(0.01)
        yield client


async def ends(client: ClusterClient, asked: GenerateRequest, limit_s: float) -> MantaError | None:
    """The error that a request ends with; None if it ends with the tokens that it must have."""
    try:
        async with asyncio.timeout(limit_s):
            chunks = await collect(client, asked)
    except MantaError as error:
        return error
    assert_is(chunks, asked)
    return None


@st.composite
def requests(draw: st.DrawFn) -> list[GenerateRequest]:
    return [
        request(
            f"r{i}",
            draw(st.lists(st.integers(0, 9), min_size=1, max_size=12)),
            max_tokens=draw(st.integers(1, 40)),
            n=draw(st.integers(1, 3)),
            grammar_ends=draw(st.none() | st.integers(0, 12)),
            seed=i,
        )
        for i in range(draw(st.integers(1, 5)))
    ]


@given(
    asked=requests(),
    chance=st.sampled_from([0.0, 0.05, 0.3]),
    fails_at=st.none() | st.integers(0, 30),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None, derandomize=True, phases=[Phase.generate])
async def test_every_request_ends_whatever_is_lost(
    asked: list[GenerateRequest], chance: float, fails_at: int | None, seed: int
) -> None:
    async with local_cluster(3) as cluster, lossy_client(cluster, chance, seed) as client:
        next(iter(cluster.toys.values())).fails_at = fails_at
        faults = await asyncio.gather(*(ends(client, one, 15) for one in asked))
        if chance == 0:
            assert faults == [None] * len(asked)
        assert all(isinstance(fault, EngineFailed | Unavailable) for fault in faults if fault is not None)
        assert client.num_open == 0
        await cluster.until_idle()


@pytest.mark.parametrize("grammar_ends", [0, 1, 7])
@pytest.mark.parametrize("n", [1, 3])
async def test_a_grammar_that_fails_ends_its_request_at_once(grammar_ends: int, n: int) -> None:
    async with local_cluster(2) as cluster:
        asked = request("a", [1, 2], max_tokens=30, n=n, grammar_ends=grammar_ends)
        chunks = await asyncio.wait_for(collect(cluster.client, asked), 2)
        assert_is(chunks, asked)
        assert {choice[-1].finish_reason for choice in chunks.values()} == {"grammar"}
        assert not cluster.migrations


async def test_a_request_that_its_replica_does_not_know_moves() -> None:
    async with local_cluster(2) as cluster:
        asked = request("a", [1, 2], max_tokens=300)
        running = asyncio.ensure_future(collect(cluster.client, asked))
        await asyncio.sleep(0.1)
        (address,) = (one for one, toy in cluster.toys.items() if toy.num_computed)
        (connection,) = cluster.servers[address]._connections.values()
        engine = cluster.servers[address].engine_thread._engine
        (known,) = engine._choices
        choices = engine._choices[known]
        engine.scheduler.remove(choices[0])  # as a fault of ours might: gone without a word
        del engine._choices[known]
        assert connection.open
        assert_is(await asyncio.wait_for(running, 4), asked)
        assert cluster.migrations == [False]


class HangingExecutor(ToyExecutor):
    """One whose second step does not come back until it is let go."""

    def __init__(self) -> None:
        super().__init__(num_blocks=512)
        self.let_go = threading.Event()
        self.hangs = threading.Event()

    def execute_model(self, plan: SchedulerOutput) -> ModelOutput:
        if plan.step == 1:
            self.hangs.set()
            assert self.let_go.wait(30)
        return super().execute_model(plan)


async def test_a_request_leaves_an_engine_that_does_not_answer() -> None:
    async with local_cluster(0) as cluster:
        hanging = HangingExecutor()
        await cluster.add(hanging)
        await cluster.until_up(1)
        asked = request("a", [1, 2], max_tokens=20)
        running = asyncio.ensure_future(collect(cluster.client, asked))
        await asyncio.to_thread(hanging.hangs.wait, 5)
        await cluster.add()
        await cluster.until_up(2)
        try:
            assert_is(await asyncio.wait_for(running, WIRE.ask_s + WIRE.answer_s + 3), asked)
        finally:
            hanging.let_go.set()
        assert cluster.migrations == [False]


class Refuses(Engine):
    """An engine with a fault of ours in `submit`."""

    def submit(self, request: GenerateRequest) -> None:
        raise KeyboardInterrupt("as a panic in compiled code: no Exception")


async def test_an_engine_that_raises_out_of_a_step_loses_what_it_was_asked_to_another(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with local_cluster(0) as cluster:
        await cluster.add(engine=Refuses(ToyExecutor(num_blocks=512), "toy", cache_key=SECRET))
        await cluster.until_up(1)
        asked = [request(f"r{i}", [i]) for i in range(4)]
        running = asyncio.gather(*(collect(cluster.client, one) for one in asked))
        async with asyncio.timeout(30):
            while cluster.client._replicas["toy"].up:
                await asyncio.sleep(0.01)
            await cluster.add()
            for one, chunks in zip(asked, await running, strict=True):
                assert_is(chunks, one)
    assert "no Exception" in capfd.readouterr().err
