"""Compiles what a part of the benchmark launches, before it does: kernels/compile_ahead.py, as this program uses it."""

import functools
from collections.abc import Callable

import torch

from kernels.compile_ahead import Absent, CompilePool, Variant, compile_variant, noted, settle_keys

__all__ = ["Absent", "Variant", "compile_ahead", "compile_variant", "noted", "pool", "settle_keys", "start_pool"]

TIMEOUT_S = 300.0  # for the hundreds of variants of a part


def compile_ahead(work: Callable[[], object], device: torch.device) -> int:
    """Compiles what `work` would launch, into Triton's cache on disk. Returns how many variants there were.

    `work` is run without its launches: its outputs mean nothing, and it must not look into them. On a CPU nothing is
    done.
    """
    if device.type != "cuda":
        return 0
    try:
        return pool().compile_launches(work, TIMEOUT_S)
    except Exception as error:  # of any kind: it only saves time
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        print(f"kernels are compiled as they are launched: {reason}", flush=True)
        return 0


@functools.cache
def pool() -> CompilePool:
    """The one of this process."""
    return CompilePool()


def start_pool() -> None:
    """Processes take seconds to import what they need: they can do so before there is work."""
    pool().begin()
