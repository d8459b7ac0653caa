"""Compiles kernels on all cores before they are launched: one after the other, hundreds of them take half an hour."""

import functools
import multiprocessing
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch

from scripts.bench.gpu.units import reason

__all__ = ["Absent", "Variant", "compile_ahead", "compile_variant", "noted", "pool", "settle_keys", "start_pool"]

MOST_PROCESSES = 16
KERNELS = Path(__file__).parents[3] / "kernels"


class Variant(NamedTuple):
    """What Triton compiles at once: a kernel, and in its own words for which arguments."""

    module: str
    name: str
    data: str


def compile_ahead(work: Callable[[], object], device: torch.device) -> int:
    """Compiles what `work` would launch, into Triton's cache on disk. Returns how many variants there were.

    `work` is run without its launches: its outputs mean nothing, and it must not look into them. On a CPU nothing is
    done.
    """
    if device.type != "cuda":
        return 0
    try:
        return _compile_ahead(work)
    except Exception as error:  # of any kind: it only saves time
        print(f"kernels are compiled as they are launched: {reason(error)}", flush=True)
        return 0


def _compile_ahead(work: Callable[[], object]) -> int:
    from triton.runtime import driver

    settle_keys()
    with noted() as variants:
        work()
    target = driver.active.get_current_target()
    for error in pool().map(functools.partial(compile_variant, target), variants):
        if error:  # it will fail where it is launched, too, and say so there
            print(error, flush=True)
    return len(variants)


@functools.cache
def pool() -> ProcessPoolExecutor:
    """Processes that know nothing of the card."""
    return ProcessPoolExecutor(
        min(MOST_PROCESSES, os.cpu_count() or 1), multiprocessing.get_context("spawn"), initializer=_begin
    )


def start_pool() -> None:
    """Processes take seconds to import what they need: they can do so before there is work."""
    for _ in range(MOST_PROCESSES):
        pool().submit(int)


def _begin() -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    settle_keys()


def settle_keys() -> None:
    """To Triton's key of a kernel belongs what it calls, as far as that was looked at before: so all are, in order."""
    from triton.runtime import JITFunction

    for path in sorted(KERNELS.glob("*/*triton.py")):
        module = import_module(f"kernels.{path.parent.name}.{path.stem}")
        for _, kernel in sorted(vars(module).items()):
            if isinstance(kernel, JITFunction):
                assert kernel.cache_key


@contextmanager
def noted() -> Iterator[set[Variant]]:
    """Launches that would have something compiled are noted instead."""
    from triton import knobs

    variants: set[Variant] = set()

    def note(*, fn: Any, compile: dict[str, Any], **more: Any) -> bool:
        variants.add(Variant(fn.module, fn.name, compile["specialization_data"]))
        return True  # so much for it

    before = knobs.runtime.jit_cache_hook
    knobs.runtime.jit_cache_hook = note
    try:
        yield variants
    finally:
        knobs.runtime.jit_cache_hook = before


def compile_variant(target: Any, variant: Variant) -> str:
    """Returns what went wrong."""
    from triton.runtime import driver

    driver.set_active(Absent(target))
    try:
        kernel = getattr(import_module(variant.module), variant.name).preload(variant.data)
        _build_launcher(kernel)
    except Exception as error:  # of any kind
        return f"{variant.name} was not compiled: {reason(error)}"
    return ""


def _build_launcher(kernel: Any) -> None:
    """What hands over arguments of these types: up to Triton 3.6 C, compiled at the first launch, for 0.3 s each."""
    from triton.backends.nvidia import driver

    if not hasattr(driver, "make_launcher"):
        return
    try:
        driver.libcuda_dirs()
    except (AssertionError, OSError, subprocess.SubprocessError):  # no driver here, so nothing will be launched
        return
    driver.CudaLauncher(kernel.src, kernel.metadata)


class Absent:
    """A driver that knows for which card to compile, and has none."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        return self._target
