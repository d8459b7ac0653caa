"""Conversations of several turns on a running server: python -m scripts.bench.multi_turn [--url ...].

Every conversation has its own beginning, and each turn, after a think time, sends the whole history. The share of
prompt tokens found in prefix caches shows how often a turn reaches the replica of its earlier turns.
"""

import argparse
import asyncio
import random
import sys
import time
from typing import Any

import aiohttp
import msgspec
from tqdm import tqdm

from scripts.bench.record import percentiles, print_json
from scripts.bench.serve import WORDS

__all__ = ["main"]


async def converse(
    session: aiohttp.ClientSession, url: str, rng: random.Random, arguments: argparse.Namespace, progress: Any
) -> list[tuple[int, int, float]]:
    """Prompt tokens, cached tokens and seconds to the answer's first token, of each turn."""
    messages = [{"role": "system", "content": " ".join(rng.choices(WORDS, k=arguments.opening))}]
    turns = []
    for _ in range(arguments.turns):
        await asyncio.sleep(rng.expovariate(1 / arguments.think_s))
        messages.append({"role": "user", "content": " ".join(rng.choices(WORDS, k=arguments.words))})
        body = {"messages": messages, "max_tokens": 16, "temperature": 0, "ignore_eos": True, "stream": True}
        usage: dict[str, Any] = {}
        began_s, first_s, said = time.perf_counter(), 0.0, ""
        async with session.post(
            f"{url}/chat/completions", json={**body, "stream_options": {"include_usage": True}}
        ) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                if not line.startswith(b"data: {"):
                    continue
                event = msgspec.json.decode(line[6:])
                usage = event.get("usage") or usage
                for choice in event["choices"]:
                    said += choice["delta"].get("content") or ""
                if said and not first_s:
                    first_s = time.perf_counter() - began_s
        messages.append({"role": "assistant", "content": said})
        turns.append((usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], first_s))
        progress.update()
    return turns


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    rngs = iter([random.Random(f"{arguments.seed}/{number}") for number in range(arguments.conversations)])
    turns: list[tuple[int, int, float]] = []
    progress = tqdm(total=arguments.conversations * arguments.turns, file=sys.stderr, leave=False)

    async def client(session: aiohttp.ClientSession) -> None:
        for rng in rngs:
            turns.extend(await converse(session, arguments.url, rng, arguments, progress))

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        await asyncio.gather(*(client(session) for _ in range(arguments.concurrency)))
    progress.close()
    return {
        "prompt_tokens": sum(prompt for prompt, _, _ in turns),
        "cached_tokens": sum(cached for _, cached, _ in turns),
        "ttft_ms": percentiles([seconds for _, _, seconds in turns]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.multi_turn", description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--concurrency", type=int, default=64, help="conversations at the same time")
    parser.add_argument("--think-s", type=float, default=4.0, help="mean time from an answer to the next turn")
    parser.add_argument("--opening", type=int, default=100, help="words that begin a conversation")
    parser.add_argument("--words", type=int, default=40, help="words of each turn")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    arguments = parser.parse_args()
    row = asyncio.run(measure(arguments))
    share = row["cached_tokens"] / row["prompt_tokens"]
    ttft = row["ttft_ms"]
    print(f"{row['cached_tokens']} of {row['prompt_tokens']} prompt tokens cached ({share:.0%}), TTFT {ttft} ms")
    print_json({"benchmark": "turns", "arguments": vars(arguments), **row})


if __name__ == "__main__":
    main()
