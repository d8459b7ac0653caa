"""Closed-loop load on a running server: python -m scripts.bench.serve [--url ...].

Each of `concurrency` clients sends its next request when its last answer is complete. Answers have a fixed length
(ignore_eos), so that every run computes the same tokens. The shared load gives all requests one long system prompt;
it runs twice, with the prefix cache and with a salt of its own for each request, which is the cache switched off.
"""

import argparse
import asyncio
import itertools
import random
import sys
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec
from tqdm import tqdm

from scripts.bench.record import percentiles, print_json

__all__ = ["bodies", "main", "run"]

WORDS = "river stone light garden music winter paper signal bread mountain letter window engine silver forest".split()


class Sample:
    """The measurements of one request."""

    def __init__(self) -> None:
        self.first_token_s = 0.0
        self.gaps_s: list[float] = []
        self.end_to_end_s = 0.0
        self.usage: dict[str, Any] = {}


async def ask(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> Sample:
    sample = Sample()
    began_s = last_s = time.perf_counter()
    async with session.post(f"{url}/chat/completions", json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {await response.text()}")
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            event = msgspec.json.decode(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            if event.get("usage"):
                sample.usage = event["usage"]
            if any(choice["delta"].get("content") for choice in event["choices"]):
                now_s = time.perf_counter()
                if sample.first_token_s == 0.0:
                    sample.first_token_s = now_s - began_s
                else:
                    sample.gaps_s.append(now_s - last_s)
                last_s = now_s
    sample.end_to_end_s = time.perf_counter() - began_s
    return sample


async def run(
    url: str, name: str, bodies: list[dict[str, Any]], concurrency: int, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Sends all bodies, `concurrency` at a time, with further headers."""
    todo = iter(bodies)
    samples: list[Sample] = []
    began_s = time.perf_counter()
    progress = tqdm(total=len(bodies), desc=f"{name:>14}", file=sys.stderr, leave=False)

    async def client(session: aiohttp.ClientSession) -> None:
        for body in todo:
            samples.append(await ask(session, url, body))
            progress.update()

    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None),
        connector=aiohttp.TCPConnector(limit=0),
        # streams of peers are not compressed either
        headers={"Accept-Encoding": "identity", **(headers or {})},
    ) as session:
        await asyncio.gather(*(client(session) for _ in range(concurrency)))
    progress.close()
    wall_s = time.perf_counter() - began_s
    output = sum(sample.usage["completion_tokens"] for sample in samples)
    cached = sum((sample.usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0) for sample in samples)
    return {
        "load": name,
        "concurrency": concurrency,
        "num_requests": len(bodies),
        "ttft_ms": percentiles([sample.first_token_s for sample in samples]),
        "inter_token_ms": percentiles(list(itertools.chain.from_iterable(sample.gaps_s for sample in samples))),
        "end_to_end_ms": percentiles([sample.end_to_end_s for sample in samples]),
        "output_tokens_per_s": round(output / wall_s, 1),
        "prompt_tokens": sum(sample.usage["prompt_tokens"] for sample in samples),
        "cached_tokens": cached,
    }


def bodies(
    model: str, count: int, max_tokens: int, rng: random.Random, system: str = "", num_words: int = 24, **more: Any
) -> list[Any]:
    return [
        {
            "model": model,
            "messages": [
                {"role": "system", "content": system or "You are a helpful assistant."},
                {"role": "user", "content": f"{i}: write about " + " ".join(rng.choices(WORDS, k=num_words))},
            ],
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            **{key: f"{value}{i}" if key == "cache_salt" else value for key, value in more.items()},
        }
        for i in range(count)
    ]


async def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rng = random.Random(arguments.seed)
    async with aiohttp.ClientSession() as session, session.get(f"{arguments.url}/models") as response:
        model = (await response.json())["data"][0]["id"]
    rows = []
    await run(arguments.url, "warm-up", bodies(model, 4, 8, rng), 4)
    for concurrency in arguments.concurrency:
        count = max(4, arguments.rounds * concurrency)
        rows.append(
            await run(
                arguments.url, f"chat x{concurrency}", bodies(model, count, arguments.max_tokens, rng), concurrency
            )
        )
    system = " ".join(rng.choices(WORDS, k=1000))  # each word is one token or a little more
    loads: list[tuple[str, dict[str, Any]]] = [
        ("shared, off", {"cache_salt": f"off-{arguments.seed}-"}),
        ("shared, on", {}),
    ]
    for name, more in loads if arguments.shared_requests else []:
        load = bodies(model, arguments.shared_requests, 16, rng, system, **more)
        rows.append(await run(arguments.url, name, load, min(16, arguments.shared_requests)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.serve", description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=3, help="requests per client")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--shared-requests", type=int, default=64)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    arguments = parser.parse_args()
    rows = asyncio.run(measure(arguments))
    head = ("load", "requests", "tok/s", "TTFT p50", "p99", "gap p50", "p99", "e2e p50", "p99", "cached")
    print(("{:>14}" + "{:>10}" * 9).format(*head))
    for row in rows:
        figures = [
            row[kind][share] for kind in ("ttft_ms", "inter_token_ms", "end_to_end_ms") for share in ("p50", "p99")
        ]
        share = f"{100 * row['cached_tokens'] / row['prompt_tokens']:.0f} %"
        cells = [row["load"], row["num_requests"], row["output_tokens_per_s"], *figures, share]
        print(("{:>14}" + "{:>10}" * 9).format(*cells))
    print_json({"benchmark": "serve", "arguments": vars(arguments), "rows": rows})


if __name__ == "__main__":
    main()
