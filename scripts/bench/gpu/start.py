"""How long an engine takes from random weights to its first answer: with nothing compiled, and with everything."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from scripts.bench.gpu.units import Row, Unit, unit

__all__ = ["time_starts"]

LIMIT_S = 150


def time_starts(device: torch.device, tiny: bool) -> Iterator[Unit]:
    """Two processes that share a cache of compiled kernels, empty at first."""
    folder = tempfile.mkdtemp(prefix="manta-triton-")
    for name in ("cold", "warm"):
        yield unit(_start, name, Path(folder), device, tiny)


def _start(name: str, cache: Path, device: torch.device, tiny: bool) -> Row:
    command = [sys.executable, "-m", "scripts.bench.gpu.start", str(device), *(["tiny"] if tiny else [])]
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2] or f"exit {done.returncode}")
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return {"name": f"{name} start", **row}


def main() -> None:
    from kernels.kernel_set import load_kernels
    from scripts.bench.gpu.engine import start_row

    device, tiny = torch.device(sys.argv[1]), "tiny" in sys.argv
    kernels = load_kernels(device if device.type == "cuda" else torch.device("meta"), torch.bfloat16)
    print(json.dumps(start_row(kernels, device, tiny)))


if __name__ == "__main__":
    main()
