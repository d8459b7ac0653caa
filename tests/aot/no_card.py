"""Stands in for a card that is not there: kernels are bound and specialised as on Hopper, and go no further."""

from collections.abc import Iterator
from contextlib import contextmanager

from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from kernels.compile_ahead import Absent, Variant, noted

__all__ = ["HOPPER", "absent_card", "launches"]

HOPPER = GPUTarget("cuda", 90, 32)


@contextmanager
def absent_card() -> Iterator[None]:
    before = driver._active  # `driver.active` would look for a card
    driver.set_active(Absent(HOPPER))
    try:
        yield
    finally:
        driver.set_active(before)


@contextmanager
def launches() -> Iterator[set[Variant]]:
    """Of each launch its kernel, and what Triton would compile it for: another one takes seconds on a card.

    Nothing is compiled, nothing runs, and outputs stay as they were allocated. Tensors may lie on a CPU.
    """
    with absent_card(), noted() as found:
        yield found
