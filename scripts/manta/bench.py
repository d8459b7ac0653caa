"""`manta bench`: a load generator for a running server. Prints throughput, time to first token and gaps."""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

from scripts.manta.openai_client import OpenAIClient, ServerError, api_key_of
from scripts.manta.options import parse

__all__ = ["main"]

DESCRIPTION = """\
Puts load on a running OpenAI-compatible server: each of CONCURRENCY clients sends its next request when its last answer
is complete. All answers have the same length, so that two runs compute the same.

    manta bench --concurrency 1 16 64 --num-requests 64

tok/s counts the answers' tokens; TTFT is the time to the first token, gap the time between two events that bring text,
both in milliseconds, median and 99th percentile."""


def main(arguments: Sequence[str]) -> None:
    options = parse(_parser(), arguments)
    key = api_key_of(options.api_key)
    try:
        model = options.model or next(iter(OpenAIClient(options.url, key).models()), "")
        rows = asyncio.run(_measure(options, model, key))
    except (ServerError, RuntimeError, OSError) as error:
        sys.exit(f"manta bench: {error}")
    if options.json:
        print(json.dumps({"model": model, "arguments": _arguments_of(options), "rows": rows}))
    else:
        _print(rows)


async def _measure(options: argparse.Namespace, model: str, key: str) -> list[dict[str, Any]]:
    from scripts.bench.serve import bodies, run

    draw = random.Random(options.seed)
    headers = {"Authorization": f"Bearer {key}"}
    await run(options.url, "warm-up", bodies(model, 2, 8, draw, num_words=options.prompt_words), 2, headers)
    rows = []
    for concurrency in options.concurrency:
        load = bodies(model, options.num_requests, options.max_tokens, draw, num_words=options.prompt_words)
        rows.append(await run(options.url, f"x{concurrency}", load, concurrency, headers))
    return rows


def _print(rows: list[dict[str, Any]]) -> None:
    layout = "{:>11}{:>10}{:>14}{:>10}{:>11}{:>10}{:>11}{:>10}"
    head = ("concurrency", "requests", "prompt tokens", "tok/s", "TTFT p50", "p99", "gap p50", "p99")
    print(layout.format(*head))
    for row in rows:
        times = [row[kind][share] for kind in ("ttft_ms", "inter_token_ms") for share in ("p50", "p99")]
        prompt = round(row["prompt_tokens"] / row["num_requests"])
        print(layout.format(row["concurrency"], row["num_requests"], prompt, row["output_tokens_per_s"], *times))


def _arguments_of(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments for the record, without the API key."""
    return {name: value for name, value in vars(options).items() if name != "api_key"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="manta bench",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="base URL of the API (%(default)s)")
    parser.add_argument("--model", help="the server's first one by default")
    parser.add_argument("--api-key", metavar="KEY", help="OPENAI_API_KEY of the environment by default")
    parser.add_argument(
        "--concurrency",
        type=_positive,
        nargs="+",
        default=[1, 16, 64],
        metavar="N",
        help="clients; a row each (1 16 64)",
    )
    parser.add_argument("--num-requests", type=_positive, default=64, metavar="N", help="of each row (64)")
    parser.add_argument("--prompt-words", type=_positive, default=24, metavar="N", help="a word is a token or two (24)")
    parser.add_argument("--max-tokens", type=_positive, default=128, metavar="N", help="tokens of each answer (128)")
    seed = time.time_ns() % 1_000_000
    parser.add_argument("--seed", type=int, default=seed, metavar="N", help="of the prompts; another one each time")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return int(text)
