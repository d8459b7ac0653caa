"""The context of a benchmark result: machine, versions and commit."""

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["describe", "percentiles", "print_json"]


def describe() -> dict[str, Any]:
    """The machine, the versions and the commit of this run."""
    versions = {}
    for package in ("torch", "ray", "transformers", "triton"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _cpu(),
        "num_cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": _commit(),
        "load_average": round(os.getloadavg()[0], 2),
        **versions,
    }


def percentiles(values: list[float], unit: float = 1000.0) -> dict[str, float]:
    """Median and 99th percentile, by default of seconds, in milliseconds."""
    ordered = sorted(values)
    if not ordered:
        return {"p50": 0.0, "p99": 0.0}
    half, last = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.99))
    return {"p50": round(half * unit, 2), "p99": round(last * unit, 2)}


def print_json(result: dict[str, Any]) -> None:
    print(json.dumps({**describe(), **result}))


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit, with a + if files differ from it. A copy of the tree has it in MANTA_COMMIT: its git knows less."""
    if told := os.environ.get("MANTA_COMMIT"):
        return told
    head = _git("rev-parse", "--short", "HEAD")
    return head + ("+" if _git("status", "--porcelain") else "") if head else ""


def _git(*args: str) -> str:
    try:
        done = subprocess.run(["git", *args], capture_output=True, text=True, cwd=Path(__file__).parent)
    except OSError:  # there is none
        return ""
    return done.stdout.strip()
