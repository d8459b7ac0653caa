"""Kill matrix of resumable streams: python -m scripts.bench.resume [--streams 40] [--front haproxy] [--faults ...].

Starts a small Ray cluster of its own with two ingresses and two replicas of SmolLM2, behind Serve's proxy or HAProxy.
Under each fault, clients of all APIs and kinds stream, lose their lines, come back with the last event's id, and go on
until they have the end. What a client has must be, byte for byte, what the same key gives afterwards in one undisturbed
piece.
"""

import argparse
import asyncio
import os
import random
import secrets
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from scripts.bench.record import print_json
from scripts.bench.resuming_client import REQUESTS, Resumed, resumed
from scripts.environment import ROOT
from scripts.manta.ray_environment import Front, machine_variables, values_of

__all__ = ["FAULTS", "main"]

PORT, DASHBOARD_PORT = 18010, 18275
URL = f"http://127.0.0.1:{PORT}/v1"
PROXY_KILLED, HAPROXY_KILLED = "Serve's proxy killed", "HAProxy killed"
STRIKE_S = (0.5, 4.0)  # from the time when a quarter of a round's streams have events to its fault


@contextmanager
def cluster(front: Front) -> Iterator[None]:
    """Ends with the context."""
    folder = Path(tempfile.mkdtemp(prefix="mr-", dir="/tmp"))
    if front == "haproxy":
        os.environ |= values_of(machine_variables(front, folder))
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    # these read the environment
    import ray
    from ray import serve

    from serve_app.main import build

    ray.init(
        address="local",
        num_cpus=8,
        dashboard_port=DASHBOARD_PORT,
        include_dashboard=True,
        _temp_dir=str(folder),
        log_to_driver=False,
        object_store_memory=100_000_000,
    )
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": PORT})
        arguments = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())["applications"][0]["args"]
        arguments["ingress"]["num_replicas"] = 2
        serve.run(build(arguments), name="manta")
        yield
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def pids(name: str) -> list[int]:
    """The processes of this cluster's actors whose name or class this is part of."""
    from ray.util.state import list_actors

    address = f"http://127.0.0.1:{DASHBOARD_PORT}"
    actors = list_actors(address=address, filters=[("state", "=", "ALIVE")], limit=1000)
    return sorted(actor.pid for actor in actors if actor.pid and name in (actor.name or actor.class_name or ""))


def _killing(name: str) -> Callable[[], None]:
    def kill() -> None:
        os.kill(random.choice(pids(name)), signal.SIGKILL)

    return kill


def _kill_haproxy() -> None:
    """Of this cluster: those whose file lies in its folder, a draining one too."""
    files = os.path.dirname(os.environ["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]).encode()
    num_killed = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            program, *arguments = (folder / "cmdline").read_bytes().split(b"\0")
            if program.endswith(b"haproxy") and any(argument.startswith(files + b"/") for argument in arguments):
                os.kill(int(folder.name), signal.SIGKILL)
                num_killed += 1
    if not num_killed:
        raise SystemExit("no HAProxy of this cluster runs")


def _nothing() -> None: ...


# fault -> what strikes once in a round; lines are cut at random bytes under "line cut" alone
FAULTS: dict[str, Callable[[], None]] = {
    "none": _nothing,
    "line cut": _nothing,
    "ingress killed": _killing("Ingress"),
    "replica killed": _killing("Replica-"),
    PROXY_KILLED: _killing("PROXY"),
    HAPROXY_KILLED: _kill_haproxy,
}


async def struck(fault: str, num_streams: int) -> dict[str, Any]:
    """One row: all streams of a round, and the fault in its middle."""
    keys = [(kind, secrets.token_hex(16)) for _, kind in zip(range(num_streams), _endless(), strict=False)]
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    begun, quarter = set[str](), asyncio.Event()

    def is_cut(key: str, cutting: Callable[[int], bool], num_bytes: int) -> bool:
        if num_bytes:
            begun.add(key)
        if len(begun) * 4 >= num_streams:
            quarter.set()
        return cutting(num_bytes)

    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300)) as session:
        running = asyncio.gather(
            *(
                resumed(session, URL, kind, key, is_cut=partial(is_cut, key, _cutting(fault == "line cut")))
                for kind, key in keys
            )
        )
        await quarter.wait()
        await asyncio.sleep(random.uniform(*STRIKE_S))
        await asyncio.to_thread(FAULTS[fault])
        streams: list[Resumed] = await running
        await _until_all_are_up()
        whole = [await resumed(session, URL, kind, key) for kind, key in keys]
    pairs = list(zip(keys, streams, whole, strict=True))
    wrong = sorted({kind for (kind, _), one, other in pairs if one.error or one.events != other.events})
    return {
        "fault": fault,
        "streams": num_streams,
        "exact": sum(not one.error and one.events == other.events for _, one, other in pairs),
        "resumed": sum(one.num_lines > 1 for one in streams),
        "median_silence_s": round(statistics.median(one.longest_gap_s for one in streams), 2),
        "longest_silence_s": round(max(one.longest_gap_s for one in streams), 2),
        "wrong": wrong,
        "differences": [_difference(one, other) for _, one, other in pairs if one.events != other.events],
        "errors": sorted({one.error for one in (*streams, *whole) if one.error}),
    }


def _difference(one: Resumed, other: Resumed) -> list[str]:
    """The first events that are not the same."""
    events = zip(one.events.split(b"\n\n"), other.events.split(b"\n\n"), strict=False)
    return next(([a.decode(), b.decode()] for a, b in events if a != b), ["", "", "one is longer"])


def _endless() -> Iterator[str]:
    while True:
        yield from REQUESTS


def _cutting(is_on: bool) -> Callable[[int], bool]:
    """At up to three random places."""
    places = sorted(random.sample(range(200, 20_000), 3)) if is_on else []

    def is_cut(num_bytes: int) -> bool:
        if not places or num_bytes < places[0]:
            return False
        while places and num_bytes >= places[0]:
            places.pop(0)
        return True

    return is_cut


async def _until_all_are_up() -> None:
    deadline_s = time.monotonic() + 90
    while len(await asyncio.to_thread(pids, "Ingress")) < 2 or len(await asyncio.to_thread(pids, "Replica-")) < 2:
        if time.monotonic() > deadline_s:
            raise SystemExit("a killed process was not replaced within 90 s")
        await asyncio.sleep(0.5)
    await asyncio.sleep(3)  # until the ingresses have found the replicas


async def measure(faults: list[str], num_streams: int, rounds: int) -> list[dict[str, Any]]:
    rows = []
    for fault in faults:
        for _ in range(rounds):
            row = await struck(fault, num_streams)
            rows.append(row)
            print(
                f"{fault:<22}{row['exact']:>4} of {num_streams} exact, {row['resumed']} resumed; longest silence of a "
                f"stream {row['median_silence_s']} s in the median, {row['longest_silence_s']} s at most",
                *row["wrong"],
                *row["errors"],
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.resume", description=__doc__.split("\n")[0])
    parser.add_argument("--streams", type=int, default=40, help="at once, in each round")
    parser.add_argument("--rounds", type=int, default=1, help="of each fault")
    parser.add_argument("--front", choices=["proxy", "haproxy"], default="proxy", help="Serve's own proxy, or HAProxy")
    parser.add_argument("--faults", nargs="*", choices=list(FAULTS), help="all that there are of this front")
    arguments = parser.parse_args()
    others = PROXY_KILLED if arguments.front == "haproxy" else HAPROXY_KILLED
    faults = [fault for fault in arguments.faults or FAULTS if fault != others]
    with cluster(arguments.front):
        asyncio.run(_until_all_are_up())
        rows = asyncio.run(measure(faults, arguments.streams, arguments.rounds))
    print_json({"benchmark": "resume", "front": arguments.front, "rows": rows})
    sys.exit(any(row["exact"] < row["streams"] for row in rows))


if __name__ == "__main__":
    main()
