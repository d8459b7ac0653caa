"""The engine's thread and its border to the event loop."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from configs.schema import EngineConfig, SchedulerConfig
from engine.engine import Engine
from engine.errors import ContextTooLong, EngineFailed, Overloaded, Unavailable, UnknownModel
from engine.runtime.async_engine import AsyncEngine
from engine.types import GenerateRequest
from tests.engine.toy import ToyExecutor, recompute, request


@pytest.fixture
def toy() -> ToyExecutor:
    return ToyExecutor(num_blocks=256, step_s=0.002)


@pytest.fixture
async def client(toy: ToyExecutor) -> AsyncIterator[AsyncEngine]:
    client = AsyncEngine(Engine(toy, "toy", EngineConfig(scheduler=SchedulerConfig(max_queued_tokens=300))))
    yield client
    await client.close()
    assert toy.closed


async def answer(client: AsyncEngine, asked: GenerateRequest) -> list[int]:
    return [token async for chunk in client.generate(asked) for token in chunk.tokens]


async def test_a_crowd_gets_the_answers_that_each_would_get_alone(client: AsyncEngine) -> None:
    asked = [request(f"r{i}", [i % 7, 1, 2], max_tokens=10, seed=i) for i in range(40)]
    answers = await asyncio.gather(*(answer(client, one) for one in asked))
    assert answers == [recompute(one)[0] for one in asked]


async def test_closing_the_iterator_frees_the_blocks(client: AsyncEngine) -> None:
    stream = client.generate(request("a", [1] * 20, max_tokens=500))
    await anext(stream)
    await stream.aclose()
    for _ in range(1000):
        if (await client.status("toy")).num_free_blocks == 256:
            break
        await asyncio.sleep(0.005)
    assert (await client.status("toy")).num_running == 0
    assert (await client.status("toy")).num_free_blocks == 256


async def test_a_stopped_choice_ends_and_the_other_goes_on(client: AsyncEngine) -> None:
    asked = request("a", [1, 2], max_tokens=60, n=2)
    reasons = {}
    async for chunk in client.generate(asked):
        if chunk.index == 0 and chunk.start == 0:
            client.stop_choice("a", 0)
        if chunk.finish_reason:
            reasons[chunk.index] = chunk.finish_reason
    assert reasons == {0: "abort", 1: "length"}


async def test_refusals_arrive_before_anything_else(client: AsyncEngine) -> None:
    with pytest.raises(ContextTooLong):
        await anext(client.generate(request("a", [1] * 2000)))
    with pytest.raises(Overloaded):
        await asyncio.gather(*(answer(client, request(f"r{i}", [i] * 200, max_tokens=30)) for i in range(40)))
    with pytest.raises(UnknownModel):
        await client.status("other")


async def test_a_failing_step_ends_every_request_and_later_ones_are_refused(
    client: AsyncEngine, toy: ToyExecutor, capfd: pytest.CaptureFixture[str]
) -> None:
    toy.fails_at = 3
    with pytest.raises(EngineFailed):
        await answer(client, request("a", [1, 2], max_tokens=50))
    with pytest.raises(Unavailable):
        await answer(client, request("b", [1, 2]))
    with pytest.raises(EngineFailed):
        await client.status("toy")
    assert "toy failure" in capfd.readouterr().err
