"""Manta beside vLLM, llama.cpp and `transformers serve`: the same load on each server, in turn, round after round.

    python -m scripts.bench.compare --vllm ~/envs/vllm --model ./SmolLM2-135M-Instruct --rounds 3 --out results/

A round starts one server after the other, each alone on the machine, with prompts that no server has seen. Prints
medians over rounds, their spread, and by how much Manta is better. How to make the peers' environments is written in
README.md beside this file; none of them is a dependency.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.bench.plot import bars_svg
from scripts.bench.record import describe
from scripts.bench.serve import WORDS, bodies, run

__all__ = ["Load", "Server", "main", "servers", "summary"]

START_LIMIT_S = 900
STOP_LIMIT_S = 60
# figure -> whether more is better
FIGURES = {"output_tok_s": True, "total_tok_s": True, "ttft_p50_ms": False, "ttft_p99_ms": False, "gap_p99_ms": False}


@dataclass(frozen=True)
class Load:
    """Closed loops of `concurrency` clients; `prompt_words` and `system_words` are about as many tokens."""

    name: str
    concurrency: int
    num_requests: int
    prompt_words: int
    max_tokens: int
    system_words: int = 0


LOADS = (
    Load("one stream", 1, 12, 120, 128),
    Load("16 streams", 16, 64, 120, 128),
    Load("64 streams", 64, 192, 120, 128),
    Load("shared prefix", 8, 64, 24, 32, system_words=1000),
    Load("long prompts", 4, 12, 3000, 32),
)


@dataclass(frozen=True)
class Server:
    """How one is started, and where it answers. `environment` comes on top of this process's."""

    name: str
    command: tuple[str, ...]
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


class Running:
    """One server, from its start to its end."""

    def __init__(self, server: Server, log: Path) -> None:
        self._log = log.open("ab")
        self._before_mb = _available_mb()
        began_s = time.perf_counter()
        self._server = server
        self._process = subprocess.Popen(
            server.command, env={**os.environ, **server.environment}, stdout=self._log, stderr=self._log,
            start_new_session=True,
        )  # fmt: skip
        try:
            self.model = self._wait_until_it_answers()
        except BaseException:
            self.close()
            raise
        self.start_s = time.perf_counter() - began_s

    def memory_mb(self) -> float:
        """By how much less is available on the machine than before it started."""
        return self._before_mb - _available_mb()

    def close(self) -> None:
        """As its user would end it; what is left of its session ends with it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()

    def _wait_until_it_answers(self) -> str:
        """Returns the model's name once it has answered a chat."""
        end_s = time.monotonic() + START_LIMIT_S
        while time.monotonic() < end_s:
            if self._process.poll() is not None:
                raise RuntimeError(f"{self._server.name} ended with {self._process.returncode}: see {self._log.name}")
            try:
                model = str(_json(f"{self._server.url}/models")["data"][0]["id"])
                chat = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
                _json(f"{self._server.url}/chat/completions", chat)
                return model
            except (OSError, ValueError, KeyError, IndexError):
                time.sleep(0.2)
        raise RuntimeError(f"{self._server.name} does not answer after {START_LIMIT_S} s: see {self._log.name}")


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server that runs is ended too
    options.out.mkdir(parents=True, exist_ok=True)
    loads = [load for load in LOADS if not options.loads or load.name in options.loads]
    rows: list[dict[str, Any]] = []
    for number in range(options.rounds):
        for server in servers(options):
            for row in _round(server, loads, options, number):
                rows.append({"round": number, "server": server.name, **row})
                print("  ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
            _write(options, rows)
    print(table(summary(rows)))


def servers(options: argparse.Namespace) -> Iterator[Server]:
    """Manta, and the peers that were given."""
    port = options.port
    manta = [sys.executable, "-m", "scripts.manta", "serve", str(options.manta), "--port", str(port)]
    yield Server("Manta", (*manta, *options.manta_options), port)
    if options.vllm:
        bin_folder = options.vllm / "bin"
        preload = [*Path("/usr/lib").glob("*/libtcmalloc_minimal.so.4"), *options.vllm.glob("lib/libiomp5.so")]
        yield Server(
            "vLLM",
            (f"{bin_folder}/vllm", "serve", str(options.model), "--host", "127.0.0.1", "--port", str(port), "--dtype")
            + ("bfloat16", "--max-model-len", "8192", "--max-num-seqs", "64", "--enable-prefix-caching"),
            port,
            {
                "PATH": f"{bin_folder}:{os.environ['PATH']}",
                "HF_HUB_OFFLINE": "1",
                "VLLM_NO_USAGE_STATS": "1",
                "VLLM_CPU_KVCACHE_SPACE": "4",
                "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
                "LD_PRELOAD": ":".join(map(str, preload)),
            },
        )
    if options.llama_server:
        threads = str(os.cpu_count())
        yield Server(
            "llama.cpp",
            (
                str(options.llama_server),
                "-m",
                str(options.gguf),
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
                "-np",
                "16",
            )
            + ("-c", "65536", "-t", threads, "-tb", threads, "--cont-batching", "--jinja"),
            port,
        )
    if options.transformers:
        yield Server(
            "transformers",
            (f"{options.transformers}/bin/transformers", "serve", str(options.model), "--host", "127.0.0.1")
            + ("--port", str(port), "--continuous-batching", "--dtype", "bfloat16"),
            port,
        )


def _round(server: Server, loads: Sequence[Load], options: argparse.Namespace, number: int) -> Iterator[dict[str, Any]]:
    running = Running(server, options.out / f"{server.name}.log")
    try:
        yield {"load": "start", "start_s": round(running.start_s, 1)}
        draw = random.Random(f"{options.seed} {number}")  # the same prompts for every server of a round
        asyncio.run(run(server.url, "warm-up", bodies(running.model, 4, 8, draw), 4))
        for load in loads:
            yield {"load": load.name, **_figures(server.url, running.model, load, draw)}
        yield {"load": "memory", "memory_mb": round(running.memory_mb())}
    finally:
        running.close()


def _figures(url: str, model: str, load: Load, draw: random.Random) -> dict[str, float]:
    system = " ".join(draw.choices(WORDS, k=load.system_words))
    wanted = bodies(model, load.num_requests, load.max_tokens, draw, system, num_words=load.prompt_words)
    began_s = time.perf_counter()
    row = asyncio.run(run(url, load.name, wanted, load.concurrency))
    total = row["prompt_tokens"] + load.num_requests * load.max_tokens
    return {
        "output_tok_s": row["output_tokens_per_s"],
        "total_tok_s": round(total / (time.perf_counter() - began_s), 1),
        "ttft_p50_ms": row["ttft_ms"]["p50"],
        "ttft_p99_ms": row["ttft_ms"]["p99"],
        "gap_p50_ms": row["inter_token_ms"]["p50"],
        "gap_p99_ms": row["inter_token_ms"]["p99"],
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each load, server and figure: the median over rounds, least and most, and Manta's share of it (above 1 is
    better for Manta, whichever way the figure counts)."""
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in rows:
        for figure, value in row.items():
            if figure not in ("round", "server", "load"):
                values[row["load"], row["server"], figure].append(value)
    made = []
    for (load, server, figure), some in values.items():
        median = statistics.median(some)
        ours = statistics.median(values.get((load, "Manta", figure), [median]))
        better = ours / median if FIGURES.get(figure, False) else median / ours
        spread = {"median": median, "least": min(some), "most": max(some), "manta_is_better_by": round(better, 2)}
        made.append({"load": load, "server": server, "figure": figure, **spread})
    return made


def table(summaries: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"{'load':<15}{'figure':<14}{'server':<14}{'median':>10}{'least':>10}{'most':>10}{'Manta is better by':>20}"
    ]
    for row in sorted(summaries, key=lambda row: (row["load"], row["figure"])):
        better = "" if row["server"] == "Manta" else f"{row['manta_is_better_by']:.2f}x"
        lines.append(
            f"{row['load']:<15}{row['figure']:<14}{row['server']:<14}{row['median']:>10}{row['least']:>10}"
            f"{row['most']:>10}{better:>20}"
        )
    return "\n".join(lines)


def _write(options: argparse.Namespace, rows: Sequence[Mapping[str, Any]]) -> None:
    summaries = summary(rows)
    result = {"bench": "compare", **describe(), "rounds": options.rounds, "summary": summaries, "rows": rows}
    (options.out / "compare.json").write_text(json.dumps(result, indent=1) + "\n")
    bars: dict[str, dict[str, float]] = defaultdict(dict)
    for row in summaries:
        if row["figure"] == "output_tok_s":
            bars[row["load"]][row["server"]] = row["median"]
    if bars:
        (options.out / "compare.svg").write_text(bars_svg("Output tokens per second", bars))


def _json(url: str, body: Mapping[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def _available_mb() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manta", default="configs/quickstart.yaml", metavar="MODEL|CONFIG", help="as `manta serve`")
    parser.add_argument("--manta-options", nargs="*", default=[], metavar="OPTION", help="of `manta serve`")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="bfloat16 checkpoint, for vLLM and transformers")
    parser.add_argument("--vllm", type=Path, metavar="ENV", help="virtual environment with vllm-cpu")
    parser.add_argument("--transformers", type=Path, metavar="ENV")
    parser.add_argument("--llama-server", type=Path, metavar="FILE")
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="for llama.cpp")
    parser.add_argument("--loads", nargs="+", choices=[load.name for load in LOADS])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=18100)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--out", type=Path, default=Path("compare"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
