"""A replica of two processes beside one of one: a rank that is stopped is noticed, one that is slow is waited for.

The tests share the replicas. The one that loses a replica is the last.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import pytest
import pytest_asyncio

from engine.engine import Engine
from engine.errors import EngineFailed
from engine.execution.load import load_executor
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from tests.cluster.local import SECRET, WIRE, LocalCluster, local_cluster
from tests.cluster.test_client import PATIENT, collect
from tests.engine.parallel.test_ranks import config_of, driving, tiny

pytestmark = [pytest.mark.asyncio(loop_scope="module")]


class Ranked(NamedTuple):
    cluster: LocalCluster
    together: tuple[str, int]  # the address of the replica of two ranks
    rank: BaseProcess  # the second one


def request(number: int, max_tokens: int = 150) -> GenerateRequest:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    return GenerateRequest(request_id=f"r{number}", model="toy", inputs=(TokenSpan((number, 5, 1)),), sampling=sampling)


async def tokens_of(cluster: LocalCluster, asked: GenerateRequest) -> list[int]:
    return [token for chunk in (await collect(cluster.client, asked))[0] for token in chunk.tokens]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ranked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ranked]:
    source = tiny(tmp_path_factory.mktemp("tiny"), "llama")
    async with AsyncExitStack() as stack:
        executor, processes = await asyncio.to_thread(stack.enter_context, driving(config_of(source, 2)))
        cluster = await stack.enter_async_context(local_cluster(0, PATIENT))
        alone = Engine(load_executor(config_of(source, 1)), "toy", cache_key=SECRET)
        together = await cluster.add(engine=Engine(executor, "toy", cache_key=SECRET))
        await cluster.add(engine=alone)
        await cluster.until_up(2)
        try:
            yield Ranked(cluster, together, processes[0])
        finally:
            if processes[0].is_alive() and processes[0].pid is not None:
                os.kill(processes[0].pid, signal.SIGCONT)


async def test_heartbeats_tell_the_ages_of_engine_and_ranks(ranked: Ranked) -> None:
    cluster, together, rank = ranked
    (link,) = (one for one in cluster.client._replicas["toy"].up if one.replica_id == "replica-0")
    await asyncio.sleep(1.0)
    assert link.ages is not None
    assert link.ages.engine_s == 0.0 and len(link.ages.ranks_s) == 1 and link.ages.ranks_s[0] < 1.0
    assert rank.pid is not None
    os.kill(rank.pid, signal.SIGSTOP)
    await asyncio.sleep(2.6)
    assert link.ages.ranks_s[0] > 1.0, "its silence counts"
    assert cluster.servers[together].engine_thread.failure is None, "nobody waits for it"
    os.kill(rank.pid, signal.SIGCONT)
    await asyncio.sleep(1.0)
    assert link.ages.ranks_s[0] < 1.0


async def test_a_rank_on_a_busy_machine_is_not_taken_for_stopped(ranked: Ranked) -> None:
    """It is stopped for a second every other second, as if the machine had no time for it."""
    cluster, together, rank = ranked
    expected = await tokens_of(cluster, request(1, 250))
    running = asyncio.gather(*(tokens_of(cluster, request(number, 250)) for number in range(1, 9)))
    assert rank.pid is not None
    for _ in range(2):
        os.kill(rank.pid, signal.SIGSTOP)
        await asyncio.sleep(4 * WIRE.heartbeat_s + 0.6)
        os.kill(rank.pid, signal.SIGCONT)
        await asyncio.sleep(0.2)
    assert (await running)[0] == expected
    assert cluster.migrations == [] and cluster.servers[together].engine_thread.failure is None


async def test_streams_leave_a_replica_whose_rank_is_stopped_within_three_seconds(ranked: Ranked) -> None:
    cluster, together, rank = ranked
    asked = [request(number) for number in range(8)]
    expected = [await tokens_of(cluster, one) for one in asked]
    server = cluster.servers[together]
    running = asyncio.gather(*(tokens_of(cluster, one) for one in asked))
    num_steps = server.engine_thread.num_steps
    while server.engine_thread.num_steps < num_steps + 20:  # streams run
        await asyncio.sleep(0.001)
    assert rank.pid is not None
    os.kill(rank.pid, signal.SIGSTOP)
    began_s = time.monotonic()
    while server.engine_thread.failure is None:
        await asyncio.sleep(0.01)
    noticed_s = time.monotonic() - began_s
    print(f"noticed after {noticed_s:.2f} s")
    assert await running == expected
    assert cluster.migrations and not any(cluster.migrations)
    assert noticed_s < 3.0
    with pytest.raises(EngineFailed, match="silent|not finished a step"):
        await server.probe()
