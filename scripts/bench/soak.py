"""Soak test: mixed load with faults for long, without leaks: python -m scripts.bench.soak [--minutes 10].

Two replicas of SmolLM2 on CPU with a common host tier, the ingress as deployed, HTTP on loopback; no Ray, no HAProxy.
Clients send all kinds of scripts.bench.faults, whose answers must be exact, and requests with new schemas; some
disconnect, some read very slowly. One replica is killed each `--kill-every` seconds and restarted. At the end every
block must be free, there may be no more file descriptors, sockets and shared-memory segments than at the beginning, and
no process that ran throughout may have grown by more than 1 MB a minute in the second half.

"""

import argparse
import asyncio
import contextlib
import datetime
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import uvloop

from cluster.server import WireServer
from configs.schema import CacheConfig, EngineConfig, SchedulerConfig, WireConfig
from engine.engine import Engine
from engine.structured_output.grammar import MAX_COMPILED
from scripts.bench.faults import KINDS, STORY, Answer, answer
from scripts.bench.paced_server import MODEL, SECRET, run_ingress
from scripts.bench.processes import Held, held, slope_per_minute
from scripts.bench.record import describe

__all__ = ["main"]

RESULTS = Path(__file__).parent / "results"
MOST_MB_PER_MINUTE = 1.0
WARM_UP_S = 60.0  # of load before measurements count
REAL = msgspec.structs.replace(
    MODEL,
    engine=EngineConfig(
        device="cpu",
        num_threads=1,
        scheduler=SchedulerConfig(max_num_batched_tokens=256),
        cache=CacheConfig(kv_cache_memory_bytes=64 << 20, kv_offloading_bytes=64 << 20),
    ),
)


def run_real_replica(parent: Connection, name: str) -> None:
    """Sends its address, and then the state of its blocks on request, until it is terminated."""
    from engine.execution.load import load_executor
    from engine.structured_output.grammar import Vocabulary
    from serve_app.model.text_model import load_text_model

    text = load_text_model(REAL)
    vocabulary = Vocabulary(text.vocabulary.all_bytes, tuple(sorted(text.vocabulary.special_ids)), text.eos_ids)

    def encode(data: bytes) -> list[int]:
        return list(text.encode_inner(data.decode("utf-8", "replace")))

    async def serve() -> None:
        executor = load_executor(REAL, vocabulary, encode, cache_key=SECRET)
        engine = Engine(executor, REAL.name, REAL.engine, SECRET)
        server = WireServer(engine, name, WireConfig(), SECRET)
        parent.send(await server.start("127.0.0.1"))
        while await asyncio.to_thread(parent.recv):
            parent.send(server.engine_thread.status)

    uvloop.run(serve())


class Fleet:
    """The processes: replicas "old" and "young", of which the young one is killed, and the ingress."""

    def __init__(self, folder: Path) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._file = folder / "replicas.json"
        self._replicas: dict[str, tuple[BaseProcess, Connection, tuple[str, int]]] = {}
        self.num_kills = 0
        for name in ("old", "young"):
            self._start(name)
        hear, tell = self._context.Pipe()
        self._ingress = self._context.Process(target=run_ingress, args=(str(self._file), tell), daemon=True)
        self._ingress.start()
        self.url = f"http://127.0.0.1:{hear.recv()}/v1"

    def _start(self, name: str) -> None:
        here, there = self._context.Pipe()
        process = self._context.Process(target=run_real_replica, args=(there, name), daemon=True)
        process.start()
        there.close()  # so that an end of the process ends the pipe
        self._replicas[name] = process, here, here.recv()
        self._list()

    def _list(self) -> None:
        aside = self._file.with_suffix(".new")
        aside.write_text(json.dumps([address for _, _, address in self._replicas.values()]))
        aside.replace(self._file)

    def kill(self) -> None:
        process, here, _ = self._replicas.pop("young")
        self._list()
        process.kill()
        process.join()
        here.close()
        self.num_kills += 1
        self._start("young")

    @property
    def pids(self) -> dict[str, int]:
        """The resources of the processes that run throughout."""
        found = {"replica": self._replicas["old"][0].pid, "ingress": self._ingress.pid}
        return {name: pid for name, pid in found.items() if pid is not None}

    def statuses(self) -> list[Any]:
        for _, here, _ in self._replicas.values():
            here.send(True)
        return [here.recv() for _, here, _ in self._replicas.values()]

    def close(self) -> None:
        for process in (self._ingress, *(process for process, _, _ in self._replicas.values())):
            process.terminate()
            process.join(10)


async def exact(session: aiohttp.ClientSession, url: str, rng: random.Random, expected: dict[str, Answer]) -> str:
    kind = rng.choice(list(KINDS))
    one = await answer(session, url, kind)
    return "exact" if one == expected[kind] else f"wrong: {kind}, {one.error}"


async def under_a_schema(session: aiohttp.ClientSession, url: str, rng: random.Random, max_tokens: int = 60) -> str:
    name = f"field_{rng.randrange(10**9)}"
    schema = {
        "type": "object",
        "properties": {name: {"type": "string", "maxLength": rng.randint(5, 20)}, "count": {"type": "integer"}},
        "required": [name],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    body = {"messages": STORY, "max_tokens": max_tokens, "response_format": form, "temperature": 1.0}
    async with session.post(f"{url}/chat/completions", json=body) as response:
        if response.status != 200:
            return f"schema: {response.status} {(await response.text())[:200]}"
        (choice,) = (await response.json())["choices"]
    if choice["finish_reason"] == "stop" and name not in json.loads(choice["message"]["content"]):
        return "schema: another document"
    return "schema"


async def fill_caches(session: aiohttp.ClientSession, url: str, rng: random.Random) -> None:
    """Fills the caches of compiled grammars in every replica, and others that fill at first use."""
    left = iter(range(3 * MAX_COMPILED))

    async def ask() -> None:
        for _ in left:
            await under_a_schema(session, url, rng, max_tokens=20)

    await asyncio.gather(
        left_in_the_middle(session, url, rng), hardly_read(session, url, rng), *(ask() for _ in range(8))
    )


async def left_in_the_middle(session: aiohttp.ClientSession, url: str, rng: random.Random) -> str:
    body = {"messages": STORY, "max_tokens": 400, "stream": True, "n": rng.randint(1, 3)}
    async with session.post(f"{url}/chat/completions", json=body) as response:
        for _ in range(rng.randint(0, 60)):
            await response.content.readline()
    return "left"


async def hardly_read(session: aiohttp.ClientSession, url: str, rng: random.Random) -> str:
    """A client that reads a hundred bytes a second, and disconnects after a while."""
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    body = json.dumps({"messages": STORY, "max_tokens": 300, "stream": True, "logprobs": True, "top_logprobs": 20})
    head = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n\r\n{body}".encode())
    for _ in range(rng.randint(1, 15)):
        if not await reader.read(100):
            break
        await asyncio.sleep(1.0)
    writer.transport.abort()
    return "slow reader"


async def client(
    session: aiohttp.ClientSession, url: str, rng: random.Random, end_s: float, observed: "Observed"
) -> None:
    while time.monotonic() < end_s:
        try:
            match rng.randrange(10):
                case 0 | 1:
                    kind = await left_in_the_middle(session, url, rng)
                case 2:
                    kind = await hardly_read(session, url, rng)
                case 3 | 4 | 5:
                    kind = await under_a_schema(session, url, rng)
                case _:
                    kind = await exact(session, url, rng, observed.expected)
        except (OSError, aiohttp.ClientError) as error:
            kind = f"{type(error).__name__}: {error}"
        observed.kinds[kind] += 1


class Observed:
    """The results up to now."""

    def __init__(self, expected: dict[str, Answer]) -> None:
        self.expected = expected
        self.kinds: Counter[str] = Counter()
        self.held: dict[str, list[Held]] = {}
        self.num_pieces: list[int] = []  # of shared memory


def num_pieces() -> int:
    return sum(1 for _ in Path("/dev/shm").glob("manta*"))


async def watch(fleet: Fleet, began_s: float, observed: Observed) -> None:
    while True:
        for name, pid in (fleet.pids | {"client": os.getpid()}).items():
            observed.held.setdefault(name, []).append(held(pid, time.monotonic() - began_s))
        observed.num_pieces.append(num_pieces())
        await asyncio.sleep(2.0)


async def keep_killing(fleet: Fleet, period_s: float) -> None:
    while True:
        await asyncio.sleep(period_s)
        await asyncio.to_thread(fleet.kill)


async def soak(fleet: Fleet, options: argparse.Namespace) -> dict[str, Any]:
    timeout, connector = aiohttp.ClientTimeout(total=300), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        observed = Observed({kind: await answer(session, fleet.url, kind) for kind in KINDS})
        await fill_caches(session, fleet.url, random.Random(f"{options.seed} warm-up"))
        await asyncio.sleep(15.0)
        before = {name: held(pid, 0.0) for name, pid in fleet.pids.items()}
        pieces_before, began_s = num_pieces(), time.monotonic()
        end_s = began_s + 60 * options.minutes
        beside = [asyncio.create_task(watch(fleet, began_s, observed))]
        killing = asyncio.create_task(keep_killing(fleet, options.kill_every))
        rngs = [random.Random(f"{options.seed} {number}") for number in range(options.clients)]
        await asyncio.gather(*(client(session, fleet.url, rng, end_s, observed) for rng in rngs))
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
        for task in beside:
            task.cancel()
    await asyncio.sleep(15.0)  # until the last one has noticed that it was left, and a replica that was killed is back
    after = {name: held(pid, 0.0) for name, pid in fleet.pids.items()}
    statuses = await asyncio.to_thread(fleet.statuses)
    return {
        "kinds": dict(observed.kinds.most_common()),
        "kills": fleet.num_kills,
        "blocks_lost": sum(one.num_blocks - one.num_free_blocks for one in statuses),
        "sequences_left": sum(one.num_running + one.num_waiting for one in statuses),
        "pieces_of_shared_memory": [pieces_before, max(observed.num_pieces), num_pieces()],
        "processes": {name: _holding(observed.held[name], before.get(name), after.get(name)) for name in observed.held},
    }


def _holding(samples: list[Held], before: Held | None, after: Held | None) -> dict[str, Any]:
    later = [one for one in samples if one.at_s > min(WARM_UP_S, samples[-1].at_s / 2)]
    half = len(later) // 2
    return {
        "mb_per_minute": round(slope_per_minute(later), 3),
        "mb_per_minute_second_half": round(slope_per_minute(later[half:]), 3),
        "rss_mb": [round(one.rss_mb, 1) for one in (samples[0], later[0], samples[-1])],
        "files": [one.num_files for one in (before, after) if one],
        "sockets": [one.num_sockets for one in (before, after) if one],
        "new_files": sorted((Counter(after.files) - Counter(before.files)).elements()) if before and after else [],
    }


def faults_of(result: dict[str, Any]) -> list[str]:
    """The violations of the run."""
    good = {"exact", "schema", "left", "slow reader"}
    found = [f"{count} times {kind}" for kind, count in result["kinds"].items() if kind not in good]
    found += [f"{result[name]} {name}" for name in ("blocks_lost", "sequences_left") if result[name]]
    first, _, last = result["pieces_of_shared_memory"]
    if last > first:
        found.append(f"{last - first} pieces of shared memory")
    for name, holding in result["processes"].items():
        slope = holding["mb_per_minute_second_half"]  # before, caches still take their size
        if name != "client" and slope > MOST_MB_PER_MINUTE:
            found.append(f"{name} grows by {slope} MB a minute")
        for kind in ("files", "sockets"):
            if holding[kind] and holding[kind][-1] > holding[kind][0]:
                found.append(f"{kind} of {name}: {holding[kind]}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--kill-every", type=float, default=45.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="keep the result")
    options = parser.parse_args()
    place = describe()
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder))
        with contextlib.closing(fleet):
            result = uvloop.run(soak(fleet, options))
    faults = faults_of(result)
    for name, value in result.items():
        print(f"{name:24} {value}")
    line = json.dumps({**place, "benchmark": "soak", "arguments": vars(options), **result, "faults": faults})
    print(line)
    if options.write:
        (RESULTS / f"{datetime.date.today()}_cpu_soak.json").write_text(line + "\n")
    if faults:
        sys.exit("lost: " + "; ".join(faults))


if __name__ == "__main__":
    main()
