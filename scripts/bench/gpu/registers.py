"""What the card's own compiler made of every shipped kernel, beside scripts/bench/results/aot_sm90.json."""

import functools
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from scripts.bench.gpu.compile_ahead import pool

__all__ = ["check_registers"]

RECORD = Path(__file__).parents[1] / "results" / "aot_sm90.json"


def check_registers(device: torch.device) -> Iterator[dict[str, Any]]:
    """Nothing may spill. The record was made by another release of Triton: more registers than in it are only told."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != (9, 0):
        return
    recorded = json.loads(RECORD.read_text())["kernels"]
    found = pool().map(_compiled, recorded)
    for case in tqdm(recorded, desc="registers", unit="kernel"):
        yield compare_registers(case, next(found), recorded[case])


@functools.cache
def _cases() -> dict[str, Any]:
    cases: dict[str, Any] = import_module("tests.aot.shipped").shipped()  # tests have no types
    return cases


def _compiled(case: str) -> dict[str, int]:
    found: dict[str, int] = import_module("tests.aot.hopper").compile_hopper(*_cases()[case])
    return found


def compare_registers(case: str, found: dict[str, int], recorded: dict[str, int]) -> dict[str, Any]:
    told = {name: found[name] for name in ("registers", "stack", "spills", "shared")}
    more = found["registers"] - recorded.get("registers", 0)
    ok = bool(recorded) and found["stack"] == found["spills"] == 0
    return {"name": "registers", "shape": case, **told, "more_than_recorded": more, "ok": ok}
