"""Stands in for a card that is not there: kernels are bound and specialised as on Hopper, and go no further."""

from collections.abc import Iterator
from contextlib import contextmanager

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

__all__ = ["launches"]


class _Driver:
    """What a launch asks of Triton's driver before it compiles."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@contextmanager
def launches() -> Iterator[set[tuple[str, str]]]:
    """Of each launch its kernel, and what Triton would compile it for: a new pair takes seconds on a card.

    Nothing is compiled, nothing runs, and outputs stay as they were allocated. Tensors may lie on a CPU.
    """
    found: set[tuple[str, str]] = set()

    def note(*, key, fn, **more) -> bool:
        found.add((f"{fn.module}.{fn.name}", str(key)))
        return True  # so much for it

    before, driver_before = knobs.runtime.jit_cache_hook, driver._active  # `default` looks for a card
    driver.set_active(_Driver())
    knobs.runtime.jit_cache_hook = note
    try:
        yield found
    finally:
        knobs.runtime.jit_cache_hook = before
        driver.set_active(driver_before)
