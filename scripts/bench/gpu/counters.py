"""Hardware counters of the kernel that takes the most of a step, by Nsight Compute: why it is not faster.

`python -m scripts.bench.gpu.counters KERNEL DEVICE` launches it, which is what ncu looks into.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from scripts.bench.gpu.units import Row, Unit, unit

__all__ = ["count_slowest", "slowest_kernel"]

LIMIT_S = 90
MOST_LINES = 250


def count_slowest(device: torch.device, out: Path) -> Iterator[Unit]:
    yield unit(_count, slowest_kernel(out), str(device))


def slowest_kernel(out: Path) -> str:
    """Of our attention kernels in the profile of the largest batch, if the engine was profiled; else prefill's."""
    path = out / "engine.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    profiles = [row for row in rows if row.get("engine") == "profile" and "kernels" in row]
    names = [name for name, _, _ in profiles[-1]["kernels"]] if profiles else []
    return next((name for name in names if name in ("_decode", "_ragged")), "_ragged")


def _count(kernel: str, device: str) -> Row:
    tool = shutil.which("ncu")
    if tool is None:
        return {"name": "ncu", "shape": kernel, "missing": "ncu"}
    # clocks stay as they are on the card
    looked_at = ["--set", "full", "--clock-control", "none", "-k", f"regex:^{kernel}$", "-c", "1"]
    command = [tool, *looked_at, sys.executable, "-m", "scripts.bench.gpu.counters", kernel, device]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr).strip().rpartition("\n")[2] or f"exit {done.returncode}")
    lines = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
    return {"name": "ncu", "shape": kernel, "lines": lines[:MOST_LINES]}


def main() -> None:
    from kernels.kernel_set import load_kernels
    from scripts.bench.gpu.cases import AttentionShape
    from scripts.bench.gpu.kernels import attention_case

    kernel, device = sys.argv[1], torch.device(sys.argv[2])
    is_gpu = device.type == "cuda"
    kernels = load_kernels(device if is_gpu else torch.device("meta"), torch.bfloat16)
    lens, counts = ([1024] * 256, [1] * 256) if kernel == "_decode" else ([8192], [8192])
    if not is_gpu:
        lens, counts = [40], [1 if kernel == "_decode" else 40]
    shape = AttentionShape(lens, counts, (32, 8) if is_gpu else (4, 2), 128 if is_gpu else 64)
    work = attention_case(kernel, kernels, shape, device)
    work.make()()
    print(f"launched {kernel}")


if __name__ == "__main__":
    main()
