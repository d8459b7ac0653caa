"""The cluster against one engine: the same tokens, whatever happens to the replicas."""

import asyncio
import random
import threading
import time

import msgspec
import pytest

from configs.schema import SchedulerConfig
from engine.errors import ContextTooLong, EngineFailed, Overloaded, Unavailable, UnknownModel
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput
from engine.types import EngineClient, GenerateRequest, RequestOutput
from tests.cluster.local import WIRE, local_cluster
from tests.engine.toy import ToyExecutor, recompute, request


async def collect(client: EngineClient, asked: GenerateRequest) -> dict[int, list[RequestOutput]]:
    chunks: dict[int, list[RequestOutput]] = {index: [] for index in range(asked.n)}
    async for chunk in client.generate(asked):
        chunks[chunk.index].append(chunk)
    return chunks


def assert_is(chunks: dict[int, list[RequestOutput]], asked: GenerateRequest) -> None:
    for index in range(asked.n):
        output, reason = recompute(asked, index)
        assert [token for chunk in chunks[index] for token in chunk.tokens] == output
        starts = [chunk.start for chunk in chunks[index]]
        assert starts == sorted(set(starts))
        assert [chunk.finish_reason for chunk in chunks[index] if chunk.finish_reason] == [reason]


async def test_a_crowd_over_two_replicas_gets_the_answers_of_one_engine() -> None:
    async with local_cluster(2) as cluster:
        asked = [request(f"r{i}", [i % 9, 3, i % 4], max_tokens=10, n=1 + i % 2, seed=i) for i in range(60)]
        answers = await asyncio.gather(*(collect(cluster.client, one) for one in asked))
        for one, chunks in zip(asked, answers, strict=True):
            assert_is(chunks, one)
        assert all(toy.num_computed > 0 for toy in cluster.toys.values()), "one replica did nothing"


async def test_streams_survive_killed_and_draining_replicas_with_the_same_tokens() -> None:
    async with local_cluster(2) as cluster:
        asked = [
            request(f"r{i}", [i, 3, 1], max_tokens=150, n=1 + 2 * (i % 2), seed=i, stop_token_ids=(7,), min_tokens=90)
            for i in range(16)
        ]
        running = asyncio.gather(*(collect(cluster.client, one) for one in asked))
        rng = random.Random(1)
        for turn in range(4):
            await asyncio.sleep(0.15)
            victim = rng.choice(list(cluster.servers))
            newcomer = await cluster.add()
            if turn % 2:
                cluster.servers[victim].drain()
                await asyncio.sleep(0.05)
                assert cluster.servers[victim].num_open == 0, "streams did not leave at once"
            await cluster.kill(victim)
            assert newcomer in cluster.servers
        told = 0
        for one, chunks in zip(asked, await running, strict=True):
            assert_is(chunks, one)
            counts = [chunk.num_migrations for choice in chunks.values() for chunk in choice]
            told += max(counts)
            assert all(
                [c.num_migrations for c in choice] == sorted(c.num_migrations for c in choice)
                for choice in chunks.values()
            )
        # what a request is told last is what was counted, unless it was over before it came to say so
        assert 0 < told <= len(cluster.migrations) and {True, False} == set(cluster.migrations)
        await cluster.until_idle()


async def test_a_replica_whose_engine_fails_loses_its_streams_to_another(capfd: pytest.CaptureFixture[str]) -> None:
    async with local_cluster(2) as cluster:
        asked = [request(f"r{i}", [i], max_tokens=60) for i in range(6)]
        next(iter(cluster.toys.values())).fails_at = 20
        for one, chunks in zip(
            asked, await asyncio.gather(*(collect(cluster.client, one) for one in asked)), strict=True
        ):
            assert_is(chunks, one)
    assert "toy failure" in capfd.readouterr().err


async def test_a_request_under_which_every_engine_fails_is_given_up(capfd: pytest.CaptureFixture[str]) -> None:
    async with local_cluster(4) as cluster:
        for toy in cluster.toys.values():
            toy.fails_at = 0
        with pytest.raises(EngineFailed):
            await collect(cluster.client, request("a", [1]))
    assert "toy failure" in capfd.readouterr().err


async def test_closing_the_stream_frees_the_blocks() -> None:
    async with local_cluster(1) as cluster:
        stream = cluster.client.generate(request("a", [1, 2], max_tokens=900))
        await anext(stream)
        await stream.aclose()
        await cluster.until_idle()
        assert cluster.client.num_open == 0
        assert (await cluster.client.status("toy")).num_blocks == 512


async def test_a_stopped_choice_frees_its_blocks_and_the_other_goes_on() -> None:
    async with local_cluster(1) as cluster:
        asked = request("a", [1, 2], max_tokens=80, n=2)
        tokens: dict[int, int] = {0: 0, 1: 0}
        async for chunk in cluster.client.generate(asked):
            tokens[chunk.index] += len(chunk.tokens)
            if chunk.index == 0 and tokens[0] == 5:
                cluster.client.stop_choice("a", 0)
        assert tokens == {0: 5, 1: 80}


async def test_refusals_name_the_fault() -> None:
    async with local_cluster(1, scheduler=SchedulerConfig(max_queued_requests=1, max_num_seqs=1)) as cluster:
        with pytest.raises(ContextTooLong):
            await collect(cluster.client, request("a", [1] * 1000))
        with pytest.raises(UnknownModel):
            await collect(cluster.client, GenerateRequest(**{**_fields(request("a", [1])), "model": "other"}))
        asked = [request(f"r{i}", [i], max_tokens=100) for i in range(4)]
        outcomes = await asyncio.gather(*(collect(cluster.client, one) for one in asked), return_exceptions=True)
        rejected = [one for one in outcomes if isinstance(one, Overloaded)]
        assert len(rejected) == 2 and all(one.retry_after_s > 0 for one in rejected)
        small = cluster.new_client(max_open_requests=0)
        with pytest.raises(Overloaded):
            await collect(small, request("b", [1]))


async def test_a_full_replica_leaves_its_requests_to_the_other() -> None:
    async with local_cluster(2, scheduler=SchedulerConfig(max_queued_requests=1, max_num_seqs=1)) as cluster:
        asked = [request(f"r{i}", [i], max_tokens=50) for i in range(4)]
        for one, chunks in zip(
            asked, await asyncio.gather(*(collect(cluster.client, one) for one in asked)), strict=True
        ):
            assert_is(chunks, one)


async def test_a_request_waits_for_the_first_replica_and_is_given_up_in_time() -> None:
    async with local_cluster(0) as cluster:
        waiting = asyncio.ensure_future(collect(cluster.client, request("a", [1])))
        await asyncio.sleep(0.3)
        await cluster.add()
        assert_is(await waiting, request("a", [1]))
    hasty = type(cluster.wire)(**{**_fields(cluster.wire), "place_timeout_s": 0.3})
    async with local_cluster(0, wire=hasty) as cluster:
        with pytest.raises(Unavailable):
            await collect(cluster.client, request("a", [1]))
        with pytest.raises(Unavailable):
            await cluster.client.status("toy")


async def test_requests_go_where_their_prefix_is() -> None:
    async with local_cluster(2) as cluster:
        for turn in range(6):
            conversation = [list(range(i, i + 12)) * (turn + 1) for i in range(2)]
            for i, prompt in enumerate(conversation):
                await collect(cluster.client, request(f"{i}-{turn}", prompt, max_tokens=2))
            await cluster.until_idle()
            await asyncio.sleep(2 * cluster.wire.heartbeat_s)
        computed = sum(toy.num_computed for toy in cluster.toys.values())
        assert computed < 2 * (6 * (12 + 4 + 2)), "a turn was computed again from its beginning"


async def test_what_an_ingress_believes_of_the_caches_is_exact() -> None:
    scheduler = SchedulerConfig(max_num_batched_tokens=32)
    async with local_cluster(2, scheduler=scheduler) as cluster:
        asked = [
            request(f"r{i}", [i % 3] * 60 + [i % 50, i % 7] * 5, max_tokens=40) for i in range(80)
        ]  # more than the pools
        running = asyncio.gather(*(collect(cluster.client, one) for one in asked))
        await asyncio.sleep(0.1)
        late = cluster.new_client()  # starts from a snapshot in the middle
        late.start()
        await running
        await cluster.until_idle()
        await asyncio.sleep(3 * cluster.wire.heartbeat_s)
        for client in (cluster.client, late):
            believed = {link.replica_id: link.replica_state.block_hashes for link in client._replicas["toy"].up}
            assert len(believed) == 2
            for server in cluster.servers.values():
                block_hashes = set(server.engine_thread._engine.scheduler.blocks.cache.block_hashes())
                assert block_hashes and believed[server._replica_id] == block_hashes
        await late.close()


def _fields(one: object) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__struct_fields__}  # type: ignore[attr-defined]


PATIENT = msgspec.structs.replace(WIRE, answer_s=30.0, place_timeout_s=30.0)


class Hanging(ToyExecutor):
    """Hangs in a step, as a rank that is stopped or a GPU that answers nothing makes it."""

    def __init__(self) -> None:
        super().__init__(num_blocks=512, step_s=0.003)
        self.hangs_at: int | None = None
        self.goes_on = threading.Event()

    def execute_model(self, plan: SchedulerOutput) -> ModelOutput:
        if self.hangs_at is not None and plan.step >= self.hangs_at:
            self.goes_on.wait(30)
        return super().execute_model(plan)


async def test_an_engine_that_hangs_is_noticed_and_loses_its_streams_to_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with local_cluster(1, PATIENT) as cluster:
        toy = Hanging()
        address = await cluster.add(toy)
        await cluster.until_up(2)
        asked = [request(f"r{i}", [i, 5], max_tokens=200, seed=i) for i in range(8)]
        await asyncio.gather(*(collect(cluster.client, request(f"w{i}", [i], max_tokens=5)) for i in range(8)))
        running = asyncio.gather(*(collect(cluster.client, one) for one in asked))
        await asyncio.sleep(0.05)
        toy.hangs_at = 0
        began_s = time.monotonic()
        try:
            for one, chunks in zip(asked, await running, strict=True):
                assert_is(chunks, one)
            assert cluster.migrations and not any(cluster.migrations)  # none was planned
            assert time.monotonic() - began_s < 6, "2 s at least, and not more than a busy machine adds"
            with pytest.raises(EngineFailed, match="has not finished a step for"):
                await cluster.servers[address].probe()
        finally:
            toy.goes_on.set()
    assert "streams are moved" in caplog.text


async def test_a_step_that_takes_long_without_hanging_is_waited_for() -> None:
    async with local_cluster(1, PATIENT) as cluster:
        toy = next(iter(cluster.toys.values()))
        toy.step_s = 0.7
        await collect(cluster.client, request("first", [1], max_tokens=2))
        toy.step_s = 2.4  # more than the least limit, and less than four times the longest
        chunks = await collect(cluster.client, asked := request("a", [1], max_tokens=2))
        assert_is(chunks, asked)
        assert cluster.migrations == []
