"""Replicas whose kernels differ: streams stay where their numbers are the same to the last bit, and say where not."""

import asyncio

from engine.types import RequestOutput
from tests.cluster.local import local_cluster
from tests.engine.toy import ToyExecutor, recompute, request


def toy(kernels: str) -> ToyExecutor:
    made = ToyExecutor(num_blocks=512, step_s=0.003)
    made.kernels = kernels
    return made


async def test_a_stream_moves_to_a_replica_with_the_same_kernels() -> None:
    async with local_cluster(0) as cluster:
        await cluster.add(toy("amx"))
        await cluster.until_up(1)
        asked = request("a", [1, 2], max_tokens=200)
        chunks: list[RequestOutput] = []
        async for chunk in cluster.client.generate(asked):
            chunks.append(chunk)
            if len(chunks) == 5:
                (first,) = cluster.servers
                for kernels in ("avx2", "avx512", "amx", "neon"):
                    await cluster.add(toy(kernels))
                await cluster.until_up(5)
                await cluster.kill(first)
        assert [token for chunk in chunks for token in chunk.tokens] == recompute(asked, 0)[0]
        assert chunks[-1].num_migrations == 1 and not any(chunk.mixed_kernels for chunk in chunks)
        assert cluster.mixed == []


async def test_a_stream_that_must_go_on_with_other_kernels_says_so_once() -> None:
    async with local_cluster(0) as cluster:
        await cluster.add(toy("amx"))
        await cluster.until_up(1)
        chunks: list[RequestOutput] = []
        async for chunk in cluster.client.generate(request("a", [1, 2], max_tokens=200)):
            chunks.append(chunk)
            if len(chunks) == 5 or sum(one.mixed_kernels for one in chunks) == 1:
                (only,) = cluster.servers
                await cluster.add(toy("avx2"))
                await cluster.until_up(2)
                await cluster.kill(only)
        said = [chunk.mixed_kernels for chunk in chunks]  # what was on its way at the time comes first
        assert said == sorted(said) and not any(said[:5]) and said[-1]
        assert chunks[-1].num_migrations == 2 and cluster.mixed == ["toy"]
        assert (await cluster.client.status("toy")).kernels == "avx2"


async def test_new_requests_go_to_any_kernels() -> None:
    async with local_cluster(0) as cluster:
        toys = [toy("amx"), toy("avx2")]
        for one in toys:
            await cluster.add(one)
        await cluster.until_up(2)

        async def run(number: int) -> list[RequestOutput]:
            asked = request(f"r{number}", [number, 3], max_tokens=20)
            return [chunk async for chunk in cluster.client.generate(asked)]

        answers = await asyncio.gather(*map(run, range(20)))
        assert all(one.num_computed for one in toys)
        assert not any(chunk.mixed_kernels for chunks in answers for chunk in chunks)
