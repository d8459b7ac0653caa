import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

import scripts.bench.gpu as about
from scripts.bench.gpu.plan import PLANS, PlanRun, Shard
from scripts.bench.gpu.result_file import ResultFile
from scripts.bench.gpu.table import print_table

if TYPE_CHECKING:
    import torch

    from kernels.kernel_set import KernelSet
    from scripts.bench.gpu.units import Unit

__all__ = ["main", "run_part"]

STICKY = 3  # exit code: the device answers nothing but the error of an earlier unit
FAULTS = "raise", "hang", "kill", "sticky"


def main(arguments: list[str] | None = None) -> int:
    """Returns how many rows or parts failed."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _options(given)
    if options.part:
        return run_part(options)
    options.out.mkdir(parents=True, exist_ok=True)
    parts = _parts(options)
    names = ("--out", "--minutes", "--plan", "--only")
    failures = PlanRun(parts, options.out, options.minutes, _without(given, names)).run()
    print_table(options.out)
    return failures


def run_part(options: argparse.Namespace) -> int:
    """One part in this process: all of its units that an earlier process did not come to, or one alone."""
    from scripts.bench.gpu.compile_ahead import start_pool
    from scripts.bench.gpu.parts import PARTS, Setting
    from scripts.bench.gpu.units import rows_of
    from scripts.bench.record import describe

    if not options.tiny and options.unit is None:
        start_pool()
    told = json.loads(sys.stdin.readline() or "{}")  # imports are over: now it is this part's turn
    device, kernels = _chosen(options.tiny)
    ceilings = {"copy_gb_s": 1.0, "bf16_tflop_s": 1.0, **told.get("ceilings", {})}
    options.out.mkdir(parents=True, exist_ok=True)
    known = {**describe(), **_card(device), "kernels": kernels.name, "date": time.strftime("%Y-%m-%d")}
    result = ResultFile(options.out / f"{options.part}.json", {"bench": f"gpu {options.part}", **known, **told})
    baseline = _baseline(options.baseline, kernels)
    setting = Setting(
        kernels, device, ceilings, options.tiny, options.full, options.out, baseline, tuple(options.tune_ops),
        options.carried,
    )  # fmt: skip
    first, failures = result.num_done, 0
    faults = {options.fault[1]: options.fault[2]} if options.fault and options.fault[0] == options.part else {}
    for number, work in enumerate(PARTS[options.part](setting)):
        if number < first or options.unit not in (None, number):
            continue
        result.begin(work.name, work.shape)
        began_s = time.perf_counter()
        for row in rows_of(_broken(work, faults[number]) if number in faults else work):
            result.add({"unit": number, **row, "unit_s": round(time.perf_counter() - began_s, 2)})
            failures += not row.get("ok", True)
            print("  ".join(f"{key}={value}" for key, value in row.items())[:300], flush=True)
        result.end()
        if _is_lost(device) or faults.get(number) == "sticky":
            return STICKY
    return 0 if options.unit is None else failures


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = sorted({part.name for parts in PLANS.values() for part in parts})
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--plan", choices=PLANS, default="first")
    parser.add_argument("--only", nargs="+", choices=every)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--carried", type=Path, default=Path("carried"), metavar="DIR")
    parser.add_argument("--baseline", type=importlib.import_module, metavar="MODULE")
    parser.add_argument("--tune-ops", nargs="+", default=[], metavar="KERNEL")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--fault", type=_fault, metavar="PART:UNIT:KIND")
    parser.add_argument("--part", choices=every, help=argparse.SUPPRESS)  # in a process that the plan has started
    parser.add_argument("--unit", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _parts(options: argparse.Namespace) -> tuple[Shard, ...]:
    if not options.only:
        return PLANS[options.plan]
    known = {part.name: part for parts in PLANS.values() for part in parts}
    return tuple(known[name] for name in options.only)


def _without(arguments: list[str], names: tuple[str, ...]) -> list[str]:
    """The arguments but for some options and what follows each."""
    kept, dropping = [], False
    for argument in arguments:
        if argument.startswith("--"):
            dropping = argument.partition("=")[0] in names
        if not dropping:
            kept.append(argument)
    return kept


def _fault(text: str) -> tuple[str, int, str]:
    part, number, kind = text.split(":")
    if kind not in FAULTS:
        raise argparse.ArgumentTypeError(f"kind must be one of {', '.join(FAULTS)}")
    return part, int(number), kind


def _broken(work: "Unit", kind: str) -> "Unit":
    """For the rehearsal: what a unit may do to its process."""

    def run() -> NoReturn:
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "hang":
            time.sleep(3600)
        raise RuntimeError(f"a fault was asked for: {kind}")

    return replace(work, run=run)


def _is_lost(device: "torch.device") -> bool:
    """Whether the device answers nothing any more in this process, as after an illegal access."""
    if device.type != "cuda":
        return False
    import torch

    try:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    except Exception as error:  # whatever it says
        print(f"the device is lost: {error}", flush=True)
        return True
    return False


def _chosen(tiny: bool) -> "tuple[torch.device, KernelSet]":
    import torch

    from kernels.kernel_set import load_kernels, triton_kernels

    if not tiny:
        device = torch.device("cuda", torch.cuda.current_device())  # says what is wrong if there is none
        return device, load_kernels(device, torch.bfloat16)
    device = torch.device("cpu")
    if os.environ.get("TRITON_INTERPRET") == "1":
        from scripts.bench.gpu.interpreter import mend_interpreter

        mend_interpreter()
        return device, triton_kernels()
    return device, load_kernels(torch.device("meta"), torch.bfloat16)  # the references, on any machine


def _baseline(module: ModuleType | None, kernels: "KernelSet") -> "KernelSet | None":
    """The same kernels but for those that the module has, under the kernel set's names."""
    if module is None:
        return None
    names = {field.name for field in fields(kernels)} - {"name", "deterministic"}
    found = {name: getattr(module, name) for name in names if hasattr(module, name)}
    if not found:
        raise SystemExit(f"{module.__name__} has none of {', '.join(sorted(names))}")
    return replace(kernels, **found)


def _card(device: "torch.device") -> dict[str, Any]:
    import torch

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


if __name__ == "__main__":
    raise SystemExit(min(main(), STICKY))
