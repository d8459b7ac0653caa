"""The parts of the GPU script, each a list of units on one device."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from kernels.kernel_set import KernelSet
from scripts.bench.gpu.check import check
from scripts.bench.gpu.check_memory import check_memory
from scripts.bench.gpu.check_quantized import check_quantized
from scripts.bench.gpu.counters import count_slowest
from scripts.bench.gpu.engine import time_cascade, time_engine, time_engine_beside_peers, time_four_bits
from scripts.bench.gpu.kernels import baseline_cases, kernel_cases, quick_cases, second_cases, time_kernels
from scripts.bench.gpu.mixers import check_and_time_mixers
from scripts.bench.gpu.reference_text import check_reference_text
from scripts.bench.gpu.sanity import sanity
from scripts.bench.gpu.start import time_starts
from scripts.bench.gpu.tune import tune
from scripts.bench.gpu.units import Unit

__all__ = ["PARTS", "Setting"]


@dataclass(frozen=True)
class Setting:
    """What a part works with.

    ceilings   what the device does at best, as `sanity` found it; of 1 where it has not run
    full       everything, not what tells most in little time
    tune_ops   folders of kernels whose launch parameters are searched; (): all
    carried    where what was carried along lies: models and the CPU's answers
    """

    kernels: KernelSet
    device: torch.device
    ceilings: dict[str, float]
    tiny: bool
    full: bool
    out: Path
    baseline: KernelSet | None = None
    tune_ops: tuple[str, ...] = ()
    carried: Path = Path("carried")


def _check(on: Setting) -> Iterator[Unit]:
    return check(on.kernels, on.device, on.tiny, on.full)


def _kernels(on: Setting) -> Iterator[Unit]:
    cases = (kernel_cases if on.full else quick_cases)(on.kernels, on.device, on.tiny)
    others = baseline_cases(on.baseline, on.kernels, on.device, on.tiny) if on.baseline else None
    return time_kernels(cases, on.device, on.ceilings, others)


def _more_kernels(on: Setting) -> Iterator[Unit]:
    return time_kernels(second_cases(on.kernels, on.device, on.tiny), on.device, on.ceilings)


def _tune(on: Setting) -> Iterator[Unit]:
    return tune(on.kernels, on.device, on.tiny, on.out / "tables.json", on.tune_ops, quick=not on.full)


PARTS: dict[str, Callable[[Setting], Iterator[Unit]]] = {
    "sanity": lambda on: sanity(on.kernels, on.device, on.tiny),
    "check": _check,
    "engine": lambda on: time_engine(on.kernels, on.device, on.tiny),
    "kernels": _kernels,
    "tune": _tune,
    "more-kernels": _more_kernels,
    "mixers": lambda on: check_and_time_mixers(on.kernels, on.device, on.ceilings, on.tiny),
    "cascade": lambda on: time_cascade(on.kernels, on.device, on.tiny),
    "check-quantized": lambda on: check_quantized(on.kernels, on.device, on.tiny),
    "four-bits": lambda on: time_four_bits(on.kernels, on.device, on.tiny),
    "memory": lambda on: check_memory(on.device, on.tiny),
    "text": lambda on: check_reference_text(on.device, on.carried),
    "start": lambda on: time_starts(on.device, on.tiny),
    "ncu": lambda on: count_slowest(on.device, on.out),
    "peers": lambda on: time_engine_beside_peers(on.device, on.tiny),
}
