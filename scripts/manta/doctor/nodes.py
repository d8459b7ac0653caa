"""python -m scripts.manta.doctor.nodes ADDRESS NAME,NAME: asks each node of a running cluster, and prints JSON.

A program of its own: Ray may hang or end it, and loads much. Names are those of environment variables to report.
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from scripts.manta.doctor.facts import Node

__all__ = ["ask_nodes", "cluster_address"]

TIMEOUT_S = 60.0
NODE_TIMEOUT_S = 20.0
PACKAGES = ("ray", "torch", "triton", "transformers", "msgspec", "manta-serve")


def cluster_address(environment: Mapping[str, str], temp_folder: Path) -> str:
    """RAY_ADDRESS, else what `ray start` left in Ray's temp folder; "" if there is neither.

    "local" would start a cluster, "auto" take any: neither says where one is.
    """
    if (address := environment.get("RAY_ADDRESS", "")) not in ("", "local", "auto"):
        return address
    try:
        return (temp_folder / "ray_current_cluster").read_text().strip()
    except OSError:
        return ""


def ask_nodes(address: str, names: Sequence[str]) -> tuple[tuple[Node, ...], str]:
    """The nodes of a cluster, and why they could not be asked."""
    command = [sys.executable, "-m", "scripts.manta.doctor.nodes", address, ",".join(names)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        answer = done.stdout.splitlines()[-1] if done.stdout else ""
        return msgspec.json.decode(answer, type=tuple[Node, ...]), ""
    except subprocess.TimeoutExpired:
        return (), f"it has not answered in {TIMEOUT_S:g} s"
    except (OSError, msgspec.DecodeError):
        lines = done.stderr.strip().splitlines() if done.stderr else []
        return (), lines[-1][:300] if lines else "it does not answer"


def _main(address: str, names: Sequence[str]) -> None:
    import ray

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        nodes = [_ask(ray, one, names) for one in ray.nodes()]  # type: ignore[no-untyped-call]
    finally:
        ray.shutdown()
    print(json.dumps(nodes), flush=True)


def _ask(ray: Any, found: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    address = str(found["NodeManagerAddress"])
    if not found["Alive"]:
        return {"address": address, "is_alive": False}
    where = NodeAffinitySchedulingStrategy(found["NodeID"], soft=False)
    look = ray.remote(num_cpus=0, scheduling_strategy=where, max_retries=0)(_look)
    try:
        ray.get(look.remote(names, PACKAGES), timeout=NODE_TIMEOUT_S)  # starts a worker
        before_s = time.time()
        answer, wall_s = ray.get(look.remote(names, PACKAGES), timeout=NODE_TIMEOUT_S)
        after_s = time.time()
    except ray.exceptions.RayError:
        return {"address": address}
    skew = {"skew_s": wall_s - (before_s + after_s) / 2, "skew_error_s": (after_s - before_s) / 2}
    return {"address": address, **answer, **skew}


def _look(names: Sequence[str], packages: Sequence[str]) -> tuple[dict[str, Any], float]:
    """Runs on each node, which may have another Manta: it is sent as it is, and imports nothing of ours."""
    import platform
    import time as clock
    from importlib import metadata

    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    environment = {name: os.environ[name] for name in names if name in os.environ}
    return {"python": platform.python_version(), "versions": versions, "environment": environment}, clock.time()


if __name__ == "__main__":
    _main(sys.argv[1], [name for name in sys.argv[2].split(",") if name])
