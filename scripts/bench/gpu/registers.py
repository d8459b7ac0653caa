"""What the card's own compiler made of every shipped kernel, beside scripts/bench/results/aot_sm90.json."""

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

__all__ = ["check_registers"]

RECORD = Path(__file__).parents[1] / "results" / "aot_sm90.json"


def check_registers(device: torch.device) -> Iterator[dict[str, Any]]:
    """Nothing may spill. The record was made by another release of Triton: more registers than in it are only told."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != (9, 0):
        return
    hopper, cases = import_module("tests.aot.hopper"), import_module("tests.aot.shipped")  # tests have no types
    recorded = json.loads(RECORD.read_text())["kernels"]
    for case, what in tqdm(cases.shipped().items(), desc="registers", unit="kernel"):
        yield compare_registers(case, hopper.compile_hopper(*what), recorded.get(case, {}))


def compare_registers(case: str, found: dict[str, int], recorded: dict[str, int]) -> dict[str, Any]:
    told = {name: found[name] for name in ("registers", "stack", "spills", "shared")}
    more = found["registers"] - recorded.get("registers", 0)
    ok = bool(recorded) and found["stack"] == found["spills"] == 0
    return {"name": "registers", "shape": case, **told, "more_than_recorded": more, "ok": ok}
