"""Migration latency of streams with long prompts: python -m scripts.bench.migration_latency [--url ...].

Each prompt is sent twice to a running server: undisturbed, and then, with another cache_salt so that nothing is cached,
while its replica is killed. Prints the client's longest gap: with engine.cache.kv_offloading_bytes the other replica
loads the dead one's blocks, without it computes the prompt again.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp

from scripts.bench.faults import Answer, replica_pids
from scripts.bench.record import print_json
from scripts.bench.serve import WORDS

__all__ = ["main"]

AFTER_EVENTS = 12  # the replica is killed after so many events


class Watched(Answer):
    """Kills the replica that streams it."""

    def __init__(self, deployment: str) -> None:
        super().__init__()
        self._num_events = 0
        self._used = {pid: _cpu_ticks(pid) for pid in replica_pids(deployment)}

    def add(self, event: dict[str, Any]) -> None:
        super().add(event)
        self._num_events += 1
        if self._num_events == AFTER_EVENTS:
            busiest = max(self._used, key=lambda pid: _cpu_ticks(pid) - self._used[pid])
            os.kill(busiest, signal.SIGKILL)


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def ask(session: aiohttp.ClientSession, arguments: argparse.Namespace, prompt: str, answer: Answer) -> float:
    """Returns the longest gap after the first token."""
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": 300,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_salt": type(answer).__name__,
    }
    loop, last_s, longest_s = asyncio.get_running_loop(), None, 0.0
    async with session.post(f"{arguments.url}/chat/completions", json=body) as response:
        response.raise_for_status()
        async for event in response.content:
            if not event.startswith(b"data: {"):
                continue
            if last_s is not None:
                longest_s = max(longest_s, loop.time() - last_s)
            answer.add(json.loads(event[6:]))
            if any(said["text"] for said in answer.said.values()):
                last_s = loop.time()
    return longest_s


async def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for turn in range(arguments.turns):
            await _until_replicas(arguments.deployment)
            rng = random.Random(f"{arguments.seed}/{turn}")
            prompt = " ".join(rng.choices(WORDS, k=arguments.words)) + " Tell a long story."
            expected = Answer()
            gaps = [await ask(session, arguments, prompt, expected)]
            struck = Watched(arguments.deployment)  # from here on the replica that streams is the one that works
            gaps.append(await ask(session, arguments, prompt, struck))
            assert struck.num_migrations, "the stream did not move: it had ended, or another replica was killed"
            same = struck == expected
            rows.append({"exact": same, "undisturbed_s": round(gaps[0], 3), "killed_s": round(gaps[1], 3)})
            print(f"longest silence {gaps[0]:.2f} s undisturbed, {gaps[1]:.2f} s killed; exact: {same}")
    return rows


async def _until_replicas(deployment: str) -> None:
    while len(replica_pids(deployment)) < 2:
        await asyncio.sleep(0.5)
    await asyncio.sleep(10)  # until a new one has loaded its model and the ingress has found it


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench.migration_latency", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--deployment", default="Replica-smollm2", help="part of the name of the replicas' deployment")
    parser.add_argument("--words", type=int, default=1500)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = asyncio.run(measure(arguments))
    print_json({"benchmark": "takeover", "arguments": vars(arguments), "rows": rows})
    sys.exit(not all(row["exact"] for row in rows))


if __name__ == "__main__":
    main()
