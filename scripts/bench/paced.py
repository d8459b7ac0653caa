"""Streams at a steady pace through the real wire, ingress and HTTP: python -m scripts.bench.paced [--streams 64 256].

Three processes on loopback: a replica whose stub engine gives every stream 50 tokens a second, an ingress as deployed
(routing, text, server-sent events, uvicorn), a client. No Ray and no HAProxy: only the overhead of our own code is
measured. CPU time is that of all three processes, per delivered token.
"""

import argparse
import asyncio
import datetime
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from configs.schema import ApiConfig, TracesConfig, UsageLedgerConfig
from scripts.bench.paced_client import Samples, stream_for
from scripts.bench.paced_server import MODEL, running_servers
from scripts.bench.record import describe, percentiles

__all__ = ["main"]

STEP_S = 0.02
RAMP_S = 2.0  # all streams start within it
RESULTS = Path(__file__).parent / "results"
QUESTION = "Tell me a long story about a lighthouse and the people who have lived there since it was built."


def plain_tokens() -> tuple[int, ...]:
    """Tokens that are a word each: no stub answer has partial characters or stop tokens."""
    from serve_app.model.text_model import load_text_model

    vocabulary = load_text_model(MODEL).vocabulary
    words = [token for token, data in enumerate(vocabulary.shown_bytes) if data[:1] == b" " and data[1:].isalpha()]
    return tuple(words[100:1100])


class Load(msgspec.Struct, frozen=True):
    num_streams: int
    seconds: float  # measured
    max_tokens: int  # of an answer, at most; half of it at least
    is_resumable: bool = False  # every stream with an Idempotency-Key


async def measured(port: int, load: Load, pids: dict[str, int]) -> dict[str, Any]:
    num_streams, seconds, max_tokens = load.num_streams, load.seconds, load.max_tokens
    samples = Samples([], [], [])
    rng = random.Random(0)
    begin_s = time.monotonic() + RAMP_S + 1.0
    end_s = begin_s + seconds

    async def one(number: int) -> None:
        await asyncio.sleep(RAMP_S * rng.random())
        body: dict[str, object] = {
            "messages": [{"role": "user", "content": f"{number}. {QUESTION}"}],
            "stream": True,
            "max_tokens": rng.randint(max_tokens // 2, max_tokens),
            "temperature": 0,
        }
        await stream_for(port, body, end_s, samples, is_resumable=load.is_resumable)

    streams = asyncio.gather(*(one(number) for number in range(num_streams)))
    await asyncio.sleep(begin_s - time.monotonic())
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    await asyncio.sleep(end_s - time.monotonic())
    used = {name: cpu_s(pid) - before[name] for name, pid in pids.items()}
    await streams
    num_tokens = sum(begin_s <= at_s < end_s for at_s in samples.arrived_s)
    per_token = {name: round(1e6 * some_s / num_tokens, 1) for name, some_s in used.items()}
    ideal = num_streams / STEP_S
    return {
        "streams": num_streams,
        "resumable": load.is_resumable,
        "tokens_per_s": round(num_tokens / seconds, 1),
        "of_ideal": round(num_tokens / seconds / ideal, 4),
        "first_token_ms": percentiles(samples.first_token_s),
        "gap_ms": percentiles(samples.gaps_s),
        "cpu_us_per_token": per_token | {"all": round(sum(per_token.values()), 1)},
    }


def with_logs(load: Load, tokens: tuple[int, ...], num_turns: int) -> Iterator[dict[str, Any]]:
    """In turn, on new servers each: nothing is written, and one of ten requests traced, with a usage ledger."""
    with collector() as url, tempfile.TemporaryDirectory() as folder:
        traces = TracesConfig(exporter="otlp", endpoint=url, sample_ratio=0.1)
        on = ApiConfig(traces=traces, usage_ledger=UsageLedgerConfig(folder=folder, metrics=True))
        for turn in range(2 * num_turns):
            has_logs = (turn + turn // 2) % 2 == 1  # off, on, on, off: a drift of the machine falls on both
            for run in measure([load], tokens, on if has_logs else None):
                yield run | {"logs": has_logs}


@contextmanager
def collector() -> Iterator[str]:
    """The URL of a collector on loopback that takes spans and drops them."""

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces"
        server.shutdown()


def cpu_s(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(loads: Sequence[Load], tokens: tuple[int, ...], api: ApiConfig | None = None) -> Iterator[dict[str, Any]]:
    """One load after the other, on the same servers."""
    with running_servers(STEP_S, tokens, api=api) as (port, servers):
        pids = {**servers, "client": os.getpid()}
        print(f"{loads[0].num_streams} streams; pids {pids}", flush=True)
        for load in loads:
            others = round(os.getloadavg()[0], 2)  # other load of the machine
            yield uvloop.run(measured(port, load, pids)) | {"load_average_before": others}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.paced", description=__doc__.split("\n")[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--seconds", type=float, default=20.0, help="measured, after all streams have begun")
    parser.add_argument("--max-tokens", type=int, default=400, help="of an answer, at most; half of it at least")
    parser.add_argument("--resumable", type=int, default=0, help="so many times in turn without and with event ids")
    parser.add_argument("--logs", type=int, default=0, help="so many times in turn without and with traces and ledger")
    parser.add_argument("--write", action="store_true", help="keep the result")
    options = parser.parse_args()
    tokens = plain_tokens()
    runs = []
    for num_streams in options.streams:
        kinds = [False, True] * options.resumable or [False]
        loads = [Load(num_streams, options.seconds, options.max_tokens, is_resumable) for is_resumable in kinds]
        for run in with_logs(loads[0], tokens, options.logs) if options.logs else measure(loads, tokens):
            runs.append(run)
            print(
                f"{num_streams:4} streams: {run['tokens_per_s']:8.1f} tok/s, {run['of_ideal']:.1%} of ideal; "
                f"first token {run['first_token_ms']['p50']} ms, gaps p99 {run['gap_ms']['p99']} ms; "
                f"CPU us per token {run['cpu_us_per_token']}; load average before {run['load_average_before']}"
                f"{'; with event ids' if run['resumable'] else ''}"
                f"{'; with traces and ledger' if run.get('logs') else ''}",
                flush=True,
            )
    line = json.dumps({**describe(), "benchmark": "paced", "arguments": vars(options), "runs": runs})
    print(line)
    if options.write:
        (RESULTS / f"{datetime.date.today()}_paced.json").write_text(line + "\n")


if __name__ == "__main__":
    main()
