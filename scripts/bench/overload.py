"""Overload: many more requests than a replica can take: python -m scripts.bench.overload [--minutes 1] [--factor 10].

A replica with a stub engine (steps of 20 ms for any batch), the ingress as deployed, HTTP on loopback; no Ray and no
HAProxy. First a closed loop of one request at a time. Then an open loop at `--factor` times the rate that the replica
can finish, at random times, half of them streams. Every answer must be complete, or a 429 or 503 with Retry-After.
Prints the latencies of admitted requests, and the resources of the processes.
"""

import argparse
import asyncio
import datetime
import json
import os
import random
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import uvloop

from configs.schema import SchedulerConfig
from scripts.bench.paced import plain_tokens
from scripts.bench.paced_server import running_servers
from scripts.bench.processes import Held, held, slope_per_minute
from scripts.bench.record import describe, percentiles

__all__ = ["main", "measure"]

STEP_S = 0.02
NUM_TOKENS = 50  # of an answer: a second
LIMITS = SchedulerConfig(max_num_seqs=16, max_queued_requests=8)  # a queue of half an answer's time
CAPACITY = LIMITS.max_num_seqs / (NUM_TOKENS * STEP_S)  # answers a second
WARM_UP_S = 10.0  # caches fill; resources count from then on
RESULTS = Path(__file__).parent / "results"


class Answer(msgspec.Struct):
    kind: str  # "complete", "429", "503", or what is wrong
    first_token_s: float = 0.0  # of a stream
    token_s: float = 0.0  # mean time between its tokens
    took_s: float = 0.0


async def ask(session: aiohttp.ClientSession, url: str, number: int, *, stream: bool) -> Answer:
    body = {
        "messages": [{"role": "user", "content": f"{number}. Tell me a story about a lighthouse."}],
        "max_tokens": NUM_TOKENS,
        "temperature": 0,
        "stream": stream,
    }
    began_s = time.monotonic()
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            if response.status in (429, 503):
                await response.read()
                return Answer(str(response.status) if "Retry-After" in response.headers else "no Retry-After")
            if response.status != 200:
                return Answer(f"status {response.status}")
            return await (_read_stream(response, began_s) if stream else _read_whole(response, began_s))
    except (OSError, aiohttp.ClientError) as error:
        return Answer(f"{type(error).__name__}: {error}")


async def _read_whole(response: aiohttp.ClientResponse, began_s: float) -> Answer:
    answer = await response.json()
    is_whole = answer["usage"]["completion_tokens"] == NUM_TOKENS and answer["choices"][0]["finish_reason"] == "length"
    return Answer("complete" if is_whole else "cut", took_s=time.monotonic() - began_s)


async def _read_stream(response: aiohttp.ClientResponse, began_s: float) -> Answer:
    first_s, last_s, num_texts, reason, is_done = 0.0, 0.0, 0, None, False
    async for line in response.content:
        if line.startswith(b"data: [DONE]"):
            is_done = True
        elif line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if "error" in event:
                return Answer(f"error event: {event['error']['message']}")
            (choice,) = event["choices"]
            reason = choice["finish_reason"] or reason
            if choice["delta"].get("content"):
                num_texts, last_s = num_texts + 1, time.monotonic()
                first_s = first_s or last_s
    if not is_done or reason != "length" or not num_texts:
        return Answer("cut")
    return Answer("complete", first_s - began_s, (last_s - first_s) / max(1, num_texts - 1), last_s - began_s)


async def load(url: str, pids: dict[str, int], seconds: float, factor: float) -> dict[str, Any]:
    rng = random.Random(0)
    # the server closes what is idle for 5 s: who sends on it just then is reset, so this client closes before
    timeout, connector = aiohttp.ClientTimeout(total=120), aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        alone = [await ask(session, url, -1 - number, stream=True) for number in range(5)]
        assert all(one.kind == "complete" for one in alone), alone
        begin_s = time.monotonic()
        samples: dict[str, list[Held]] = {name: [] for name in pids}
        watching = asyncio.create_task(_watch(pids, begin_s, samples))
        asked: list[asyncio.Task[Answer]] = []
        while time.monotonic() - begin_s < seconds:
            asked.append(asyncio.create_task(ask(session, url, len(asked), stream=rng.random() < 0.5)))
            await asyncio.sleep(rng.expovariate(factor * CAPACITY))
        answers = await asyncio.gather(*asked)
        watching.cancel()
    return _summary(alone, answers, seconds) | {"processes": _holdings(samples)}


async def _watch(pids: dict[str, int], begin_s: float, samples: dict[str, list[Held]]) -> None:
    while True:
        for name, pid in pids.items():
            samples[name].append(held(pid, time.monotonic() - begin_s))
        await asyncio.sleep(1.0)


def _holdings(samples: dict[str, list[Held]]) -> dict[str, Any]:
    holdings = {}
    for name, all_ in samples.items():
        later = [one for one in all_ if one.at_s >= WARM_UP_S] or all_
        holdings[name] = {
            "rss_mb": [round(later[0].rss_mb, 1), round(later[-1].rss_mb, 1)],
            "mb_per_minute": round(slope_per_minute(later), 2),
            "most_files": max(one.num_files for one in all_),
        }
    return holdings


def _summary(alone: list[Answer], answers: list[Answer], seconds: float) -> dict[str, Any]:
    streams = [one for one in answers if one.kind == "complete" and one.first_token_s]
    token_s, alone_s = (statistics.median(getattr(one, name) for one in alone) for name in ("token_s", "took_s"))
    return {
        "asked_per_s": round(len(answers) / seconds, 1),
        "capacity_per_s": CAPACITY,
        "kinds": dict(Counter(one.kind for one in answers).most_common()),
        "token_ms_alone": round(1000 * token_s, 2),
        "token_ms": percentiles([one.token_s for one in streams]),
        "token_time_over_alone": round(percentiles([one.token_s for one in streams], 1 / token_s)["p99"], 2),
        "first_token_s_alone": round(statistics.median(one.first_token_s for one in alone), 3),
        "first_token_s": percentiles([one.first_token_s for one in streams], 1.0),
        "first_token_s_allowed": round(first_token_bound_s(), 2),
        "answer_s_alone": round(alone_s, 3),
        "answer_s": percentiles([one.took_s for one in answers if one.kind == "complete"], 1.0),
        "answer_time_over_alone": percentiles([one.took_s for one in answers if one.kind == "complete"], 1 / alone_s),
    }


def first_token_bound_s() -> float:
    """The longest wait by the limits: behind a full queue, and behind an answer that has just begun."""
    return (LIMITS.max_queued_requests / LIMITS.max_num_seqs + 1) * NUM_TOKENS * STEP_S


def measure(seconds: float, factor: float) -> dict[str, Any]:
    with running_servers(STEP_S, plain_tokens(), LIMITS) as (port, pids):
        return uvloop.run(load(f"http://127.0.0.1:{port}", pids, seconds, factor))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.overload", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--factor", type=float, default=10.0, help="requests for each one that can be answered")
    parser.add_argument("--write", action="store_true", help="keep the result")
    options = parser.parse_args()
    place = describe() | {"load_average_before": round(os.getloadavg()[0], 2)}
    result = measure(60 * options.minutes, options.factor)
    for name, value in result.items():
        print(f"{name:24} {value}")
    line = json.dumps({**place, "benchmark": "overload", "arguments": vars(options), **result})
    print(line)
    if options.write:
        (RESULTS / f"{datetime.date.today()}_cpu_overload.json").write_text(line + "\n")


if __name__ == "__main__":
    main()
