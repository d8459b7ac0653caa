"""Wire fuzz: hostile peers on the wire's port beside streams: python -m scripts.bench.fuzz [--frames 100000] [--write].

Every connection sends one hostile frame (scripts/bench/attacks.py). The server must not raise, its memory must not
grow, and concurrent streams must get the same tokens as undisturbed.
"""

import argparse
import asyncio
import datetime
import json
import logging
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from cluster.client import ClusterClient
from cluster.replicas import Replicas
from cluster.router import Router
from cluster.server import WireServer
from configs.schema import RoutingConfig, WireConfig
from engine.engine import Engine
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from scripts.bench.attacks import attack
from scripts.bench.record import describe
from scripts.bench.stub_engine import StubExecutor

__all__ = ["fuzz", "main"]

SECRET = b"fuzzed"
RESULTS = Path(__file__).parent / "results"


class Complaints(logging.Handler):
    """Collects logged errors of asyncio and our code (uncaught exceptions), and counts warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.escaped: list[str] = []
        self.num_turned_away = 0  # connections whose frames the server refused

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self.escaped.append(self.format(record))
        elif record.name == "cluster.server":
            self.num_turned_away += 1


async def fuzz(num_frames: int, num_streams: int, concurrency: int = 16, seed: int = 0) -> dict[str, Any]:
    """Raises AssertionError at a violation. Returns counts, and the growth of memory."""
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    wire = WireConfig()
    server = WireServer(Engine(StubExecutor(range(50), 0.005), "stub", cache_key=SECRET), "r", wire, SECRET)
    address = await server.start("127.0.0.1")
    replicas = Replicas(
        lambda: _always([address]), lambda: _always(None), "i", SECRET, wire, Router(RoutingConfig(), random.Random(0))
    )
    client = ClusterClient({"stub": replicas}, wire, 10_000, cache_key=SECRET)
    client.start()
    try:
        return await _attacked(client, server, address, num_frames, num_streams, concurrency, seed, complaints)
    finally:
        await client.close()
        await server.close()
        logging.getLogger().removeHandler(complaints)


async def _attacked(
    client: ClusterClient,
    server: WireServer,
    address: tuple[str, int],
    num_frames: int,
    num_streams: int,
    concurrency: int,
    seed: int,
    complaints: Complaints,
) -> dict[str, Any]:
    wanted = [await _answer(client, number, "calm") for number in range(num_streams)]
    turns = iter(range(num_frames))
    counts: Counter[str] = Counter()
    rss: list[float] = []
    began_s = time.monotonic()

    async def attacker(number: int) -> None:
        rng = random.Random(f"{seed}-{number}")
        for turn in turns:
            counts[await attack(address, SECRET, rng)] += 1
            if turn % max(1, num_frames // 20) == 0:
                rss.append(rss_mib())

    async def stream(number: int) -> int:
        rounds = 0
        while not done.done():
            assert await _answer(client, number, f"round {rounds}") == wanted[number], "a stream got other tokens"
            rounds += 1
        return rounds

    done = asyncio.gather(*(attacker(number) for number in range(concurrency)))
    streams = asyncio.gather(*(stream(number) for number in range(num_streams)))
    await done
    rounds = await streams
    async with asyncio.timeout(10):
        while server.num_open or server.engine_thread.status.num_running:
            await asyncio.sleep(0.05)
    assert not complaints.escaped, complaints.escaped[:3]
    assert server.engine_thread.failure is None
    assert min(rounds) > 0
    return {
        "counts": dict(counts.most_common()),
        "turned_away": complaints.num_turned_away,
        "streams_checked": sum(rounds),
        "rss_mib": [round(one, 1) for one in rss],
        "wall_s": round(time.monotonic() - began_s, 1),
    }


def rss_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


async def _answer(client: ClusterClient, number: int, name: str) -> list[tuple[int, ...]]:
    """The tokens of both choices of a stream."""
    request = GenerateRequest(
        request_id=f"{number} {name}",
        model="stub",
        inputs=(TokenSpan(tuple(range(number, number + 20))),),
        sampling=SamplingParams(max_tokens=100, seed=number),
        n=2,
    )
    tokens: list[tuple[int, ...]] = [(), ()]
    async for chunk in client.generate(request):
        assert chunk.start == len(tokens[chunk.index])
        tokens[chunk.index] += chunk.tokens
    return tokens


async def _always(value: Any) -> Any:
    return value


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=100_000, help="hostile frames and hellos, one a connection")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-growth-mib", type=float, default=32.0, help="after the first tenth")
    parser.add_argument("--write", action="store_true", help="keep the result")
    options = parser.parse_args()
    result = asyncio.run(fuzz(options.frames, options.streams, options.concurrency, options.seed))
    for kind, count in result["counts"].items():
        print(f"{count:8}  {kind}")
    tenth = len(result["rss_mib"]) // 10
    growth = max(result["rss_mib"][tenth:]) - result["rss_mib"][tenth]
    num_sent = sum(result["counts"].values())
    print(f"{num_sent} survived in {result['wall_s']:.0f} s, {result['turned_away']} of them turned away by the wire")
    print(f"{result['streams_checked']} streams beside them exact")
    print(f"memory {result['rss_mib'][0]:.0f} MiB at first, {growth:.1f} MiB more after the first tenth")
    line = json.dumps({**describe(), "benchmark": "fuzz", "arguments": vars(options), **result, "growth_mib": growth})
    print(line)
    if growth > options.max_growth_mib:
        raise SystemExit("memory grows with what is sent")
    if options.write:
        (RESULTS / f"{datetime.date.today()}_fuzz.json").write_text(line + "\n")


if __name__ == "__main__":
    main()
