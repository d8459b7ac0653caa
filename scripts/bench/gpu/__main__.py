import argparse
import importlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import scripts.bench.gpu as about
from kernels.kernel_set import KernelSet, load_kernels, triton_kernels
from scripts.bench.gpu.ceilings import ceilings
from scripts.bench.gpu.check import check
from scripts.bench.gpu.engine import time_engine
from scripts.bench.gpu.kernels import time_kernels
from scripts.bench.gpu.spared import spared
from scripts.bench.gpu.tune import tune
from scripts.bench.record import describe

__all__ = ["main"]

PARTS = ("check", "kernels", "engine")


def main(arguments: list[str] | None = None) -> int:
    """Returns how many rows failed."""
    options = _options(arguments)
    device, kernels = _chosen(options.tiny)
    options.out.mkdir(parents=True, exist_ok=True)
    about_device = {**describe(), **_card(device), "kernels": kernels.name}
    found = ceilings(device, options.tiny)
    record = _Recorder(options.out, {**about_device, "ceilings": found})
    record.write("ceilings", [])
    parts = {
        "check": check(kernels, device, options.tiny),
        "kernels": time_kernels(kernels, device, found, options.tiny, _baseline(options.baseline, kernels)),
        "engine": time_engine(kernels, device, options.tiny),
    }
    if options.tune is not None:  # the parts then run with what it found
        folder = options.out if options.tiny else None
        record.write("tune", tune(kernels, device, options.tiny, options.tune, folder))
    return sum(record.write(part, parts[part]) for part in options.only)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--baseline", type=importlib.import_module, metavar="MODULE")
    parser.add_argument("--tune", nargs="*", metavar="KERNEL")
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args(arguments)


def _chosen(tiny: bool) -> tuple[torch.device, KernelSet]:
    if not tiny:
        device = torch.device("cuda", torch.cuda.current_device())  # says what is wrong if there is none
        return device, load_kernels(device, torch.bfloat16)
    device = torch.device("cpu")
    if os.environ.get("TRITON_INTERPRET") == "1":
        return device, triton_kernels()
    return device, load_kernels(torch.device("meta"), torch.bfloat16)  # the references, on any machine


def _baseline(module: ModuleType | None, kernels: KernelSet) -> KernelSet | None:
    """The same kernels but for those that the module has, under the kernel set's names."""
    if module is None:
        return None
    names = {field.name for field in fields(KernelSet)} - {"name", "deterministic"}
    found = {name: getattr(module, name) for name in names if hasattr(module, name)}
    if not found:
        raise SystemExit(f"{module.__name__} has none of {', '.join(sorted(names))}")
    return replace(kernels, **found)


def _card(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"device": "cpu, tiny sizes"}
    properties = torch.cuda.get_device_properties(device)
    driver = ""
    if tool := shutil.which("nvidia-smi"):
        query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True).stdout.partition("\n")[0]
    return {
        "device": properties.name,
        "driver": driver,
        "num_sms": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "memory_bytes": properties.total_memory,
    }


def _rows_of(part: str, rows: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    return rows


class _Recorder:
    """Writes one file for each part, anew with every row: whoever ends the process keeps what there is."""

    def __init__(self, folder: Path, about_device: dict[str, Any]) -> None:
        self._folder = folder
        self._about = about_device

    def write(self, part: str, rows: Iterable[dict[str, Any]]) -> int:
        """Returns how many rows say that they failed."""
        name = "-".join(self._about["device"].lower().replace(",", "").split())
        path = self._folder / f"{time.strftime('%Y-%m-%d')}_{name}_{part}.json"
        known: list[dict[str, Any]] = []
        self._dump(path, part, known)
        for row in spared(_rows_of, part, rows):
            known.append(row)
            self._dump(path, part, known)
            print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        print(f"{part}: {path}", flush=True)
        return sum(not row.get("ok", True) for row in known)

    def _dump(self, path: Path, part: str, rows: list[dict[str, Any]]) -> None:
        path.write_text(json.dumps({"bench": f"gpu {part}", **self._about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main() != 0)
