"""Fault matrix: every fault against every kind of stream, on two nodes: python -m scripts.bench.fault_matrix.

Starts Ray on two nodes (scripts/bench/nodes.py), one replica of SmolLM2 on each, the ingress on the first. Each fault
is injected while `--streams` clients send one stream after the other, of all kinds of scripts.bench.faults, and short
new requests keep coming, until the cluster has recovered. A stream counts as exact if it equals the undisturbed one to
the last token: text, calls, log probabilities, usage.
"""

import argparse
import asyncio
import itertools
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import yaml

from scripts.bench.faults import KINDS, Answer, answer
from scripts.bench.nodes import HEAD, WORKER, Nodes
from scripts.bench.record import print_json
from scripts.environment import ROOT

__all__ = ["FAULTS", "main"]

URL = f"http://{HEAD}:8000/v1"
REPLICA = "ray::ServeReplica:manta:Replica"
RANK = "ray::Rank"
NEWCOMER = {"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 4, "temperature": 0}
# these break the clients' connections: only later requests count
FRONT_KILLED, INGRESS_KILLED = "HAProxy killed", "the ingress killed"
KEPT_S = 20.0  # duration of a fault that is repaired


class App:
    """Our application on the nodes, and its `serve deploy` file."""

    def __init__(self, nodes: Nodes, tensor_parallel: int) -> None:
        self.nodes = nodes
        self.file = Path(tempfile.mkdtemp(prefix="mm-", dir="/tmp")) / "matrix.yaml"
        self._document = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())
        self._document["http_options"] = {"host": "0.0.0.0", "port": 8000}  # HAProxy finds its ingress on loopback only
        self._document["logging_config"] = {"log_level": "WARNING"}
        application = self._document["applications"][0]
        application["args"]["wire"] = {}
        application["args"]["ingress"]["drain_s"] = 120
        (self.model,) = application["args"]["models"]
        self.model["engine"]["num_threads"] = 1
        # a replica fills more than half a node, so that each has one
        self.model |= {"tensor_parallel_size": tensor_parallel, "resources": {"num_cpus": 6 // tensor_parallel}}
        # the ingress runs on the node that clients can reach
        self.overrides: list[dict[str, Any]] = [
            {"name": "Ingress", "ray_actor_options": {"resources": {"node:__internal_head__": 0.001}}}
        ]
        application["deployments"] = self.overrides
        self.num_upgrades = 0

    def deploy(self) -> None:
        self.file.write_text(yaml.safe_dump(self._document))
        self.nodes.serve("deploy", str(self.file))

    def upgrade(self) -> None:
        """Changes a setting that affects no token: every process is replaced."""
        self.num_upgrades += 1
        self.model["engine"]["scheduler"]["max_num_batched_tokens"] = 256 - 16 * (self.num_upgrades % 2)
        self.deploy()

    def scale(self, count: int) -> None:
        """Changes the number of replicas only: running ones stay."""
        name = "Replica-" + self.model["served_model_name"]
        self.overrides[1:] = [{"name": name, "num_replicas": count}]
        self.deploy()

    def processes(self) -> set[int]:
        """The process ids of replicas and ingresses."""
        return {pid for address in (HEAD, WORKER) for pid in self.nodes.pids(address, "ray::ServeReplica:manta")}

    async def until_whole(self, session: aiohttp.ClientSession) -> None:
        """Waits for a replica on each node, and for the API."""
        deadline_s = time.monotonic() + 180
        while time.monotonic() < deadline_s:
            counts = [len(self.nodes.pids(address, REPLICA)) for address in (HEAD, WORKER)]
            if counts == [1, 1] and await _is_answered(session):
                await asyncio.sleep(4)  # until the ingress has found both
                return
            await asyncio.sleep(0.5)
        raise SystemExit(f"replicas on the nodes: {counts}; one on each was wanted")


async def _is_answered(session: aiohttp.ClientSession) -> bool:
    try:
        async with session.post(f"{URL}/chat/completions", json=NEWCOMER, timeout=aiohttp.ClientTimeout(10)) as said:
            return said.status == 200
    except (OSError, aiohttp.ClientError, TimeoutError):
        return False


# -- faults: each injects one, and repairs what does not recover by itself


async def _kill(app: App, address: str, name: str) -> None:
    for pid in app.nodes.pids(address, name)[:1]:
        os.kill(pid, signal.SIGKILL)


async def kill_replica(app: App) -> None:
    await _kill(app, WORKER, REPLICA)


async def kill_rank(app: App) -> None:
    await _kill(app, WORKER, RANK)


async def stop_replica(app: App) -> None:
    (pid,) = app.nodes.pids(WORKER, REPLICA)
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(6)
    os.kill(pid, signal.SIGCONT)


async def cut_link(app: App) -> None:
    app.nodes.cut()
    await asyncio.sleep(KEPT_S)
    app.nodes.mend()


async def scale_down(app: App) -> None:
    app.scale(1)
    await asyncio.sleep(KEPT_S)
    app.scale(2)


async def roll_out(app: App) -> None:
    old = app.processes()
    app.upgrade()
    while old & app.processes():
        await asyncio.sleep(0.5)


async def kill_gcs(app: App) -> None:
    again = app.nodes.kill_gcs()
    await asyncio.sleep(5)
    again()


async def kill_controller(app: App) -> None:
    await _kill(app, HEAD, "ray::ServeController")


async def kill_front(app: App) -> None:
    for pid in app.nodes.pids(HEAD, "haproxy"):  # a draining one too
        os.kill(pid, signal.SIGKILL)


async def kill_ingress(app: App) -> None:
    await _kill(app, HEAD, "ray::ServeReplica:manta:Ingress")


FAULTS: dict[str, Callable[[App], Awaitable[None]]] = {
    "replica killed": kill_replica,
    "replica stopped for 6 s": stop_replica,
    "link cut for 20 s": cut_link,
    "scaled down to one": scale_down,
    "rolled out": roll_out,
    "GCS killed, back after 5 s": kill_gcs,
    "controller killed": kill_controller,
    FRONT_KILLED: kill_front,
    INGRESS_KILLED: kill_ingress,
}
RANK_FAULTS: dict[str, Callable[[App], Awaitable[None]]] = {"rank killed": kill_rank}


# -- the measurement


MOST_OPEN = 4  # new requests at once: a slow machine gets no more than it can answer


class FaultOutcome(NamedTuple):
    answers: list[tuple[str, Answer]]  # of clients that stayed from before the fault until after it, by kind
    newcomers: list[tuple[bool, float]]  # whether each new request was answered, and after how many seconds
    recovered_s: float  # from the fault until the load ended: the cluster was whole again


async def strike(
    app: App, session: aiohttp.ClientSession, fault: Callable[[App], Awaitable[None]], num_clients: int, after_s: float
) -> FaultOutcome:
    """A fault under the load of clients that stay and of new requests, two a second as long as few are open.

    It ends when `fault` has returned and the cluster is whole again.
    """

    async def fault_and_recovery(app: App) -> None:
        await fault(app)
        await app.until_whole(session)

    return await load(app, session, fault_and_recovery, num_clients, after_s)


async def load(
    app: App,
    session: aiohttp.ClientSession,
    meanwhile: Callable[[App], Awaitable[None]],
    num_clients: int,
    after_s: float,
) -> FaultOutcome:
    """The load of `strike` beside what happens meanwhile."""
    answers: list[tuple[str, Answer]] = []
    newcomers: list[asyncio.Task[tuple[bool, float]]] = []
    is_over = asyncio.Event()

    async def stay(number: int) -> None:
        for kind in itertools.islice(itertools.cycle(KINDS), number, None):
            answers.append((kind, await answer(session, URL, kind)))
            if is_over.is_set():
                return

    async def come() -> tuple[bool, float]:
        began_s = time.monotonic()
        return await _is_answered(session), time.monotonic() - began_s

    async def keep_coming() -> None:
        while True:
            if sum(not one.done() for one in newcomers) < MOST_OPEN:
                newcomers.append(asyncio.create_task(come()))
            await asyncio.sleep(0.5)

    clients = asyncio.gather(*(stay(number) for number in range(num_clients)))
    await asyncio.sleep(after_s)
    coming = asyncio.create_task(keep_coming())
    began_s = time.monotonic()
    await meanwhile(app)
    recovered_s = time.monotonic() - began_s
    is_over.set()
    coming.cancel()
    await clients
    return FaultOutcome(answers, await asyncio.gather(*newcomers), recovered_s)


async def measure(app: App, faults: dict[str, Any], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        app.deploy()
        await app.until_whole(session)
        expected = {kind: await answer(session, URL, kind) for kind in KINDS}
        rows = []
        for name, fault in faults.items():
            await app.until_whole(session)
            rows.append(_row(name, await strike(app, session, fault, arguments.streams, arguments.after), expected))
            print(_line(rows[-1]), flush=True)
            await asyncio.sleep(arguments.rest)
    return rows


def _row(name: str, struck: FaultOutcome, expected: dict[str, Answer]) -> dict[str, Any]:
    answers, newcomers, recovered_s = struck
    if name in (FRONT_KILLED, INGRESS_KILLED):
        answers = [(kind, one) for kind, one in answers if one.error is None]
    return {
        "fault": name,
        "streams": len(answers),
        "exact": sum(one == expected[kind] for kind, one in answers),
        "moved": sum(one.num_migrations > 0 for _, one in answers),
        "wrong": sorted({kind for kind, one in answers if one != expected[kind]}),
        "errors": sorted({str(one.error) for _, one in answers if one.error}),
        "longest_silence_s": round(max(one.longest_gap_s for _, one in answers), 2),
        "new_requests": len(newcomers),
        "new_answered": sum(is_answered for is_answered, _ in newcomers),
        "recovered_s": round(recovered_s, 1),
        "slowest_new_s": round(max((seconds for _, seconds in newcomers), default=0.0), 2),
    }


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['fault']:<28}{row['exact']:>3} of {row['streams']} exact, {row['moved']} moved, "
        f"silent for {row['longest_silence_s']:.2f} s at most; "
        f"{row['new_answered']} of {row['new_requests']} new requests answered, the slowest after "
        f"{row['slowest_new_s']:.2f} s {', '.join(row['wrong'] + row['errors'])}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.fault_matrix", description=__doc__.split("\n")[0])
    parser.add_argument("--faults", nargs="*", choices=[*FAULTS, *RANK_FAULTS], default=[*FAULTS, *RANK_FAULTS])
    parser.add_argument("--streams", type=int, default=10)
    parser.add_argument("--after", type=float, default=1.5, help="seconds from the first request to the fault")
    parser.add_argument("--rest", type=float, default=10.0, help="seconds between two faults")
    arguments = parser.parse_args()
    rows = []
    for faults, tensor_parallel in ((FAULTS, 1), (RANK_FAULTS, 3)):
        wanted = {name: fault for name, fault in faults.items() if name in arguments.faults}
        if wanted:
            with Nodes(num_cpus=8) as nodes:
                rows += asyncio.run(measure(App(nodes, tensor_parallel), wanted, arguments))
    print_json({"benchmark": "matrix", "arguments": vars(arguments), "rows": rows})
    sys.exit(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    main()
