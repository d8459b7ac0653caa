"""Core lending: while an engine computes a prompt, it has the cores of the node's engines that compute nothing.

A replica of one core takes as long for a prompt as one core does, with the node's other cores idle. Each engine says in
a segment of shared memory how many threads it has and whether it computes; who has a prompt adds its share of the idle
ones'. Tokens one by one are computed with an engine's own threads: there each layer is so short that a neighbor on one
of the cores makes all threads wait for longer than the others gain.

No result depends on the number of threads (kernels/__init__.py), so none depends on what the neighbors do.
"""

import ctypes
import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kernels.native.segment import Segment, held_segments, remove_abandoned

__all__ = ["LENT_FROM_TOKENS", "CoreLending", "open_core_lending"]

log = logging.getLogger(__name__)

LENT_FROM_TOKENS = 32  # tokens of a step
REFRESH_S = 1.0  # between two looks at who is there; one that was killed counts as busy for so long
ABANDONED_S = 10.0  # age of a file that nobody holds, as one does that was killed; whoever makes one locks it at once
RESTED_NS = 20_000_000  # so long after a step an engine counts as busy, unless it says that it rests


class _Entry(ctypes.Structure):
    _fields_ = [("num_threads", ctypes.c_int64), ("computing", ctypes.c_int64), ("ended_ns", ctypes.c_int64)]


class CoreLending:
    """One engine's side, for the thread that computes. Times are of the monotonic clock, which a machine has once."""

    def __init__(self, num_threads: int, num_cores: int) -> None:
        """num_threads   this engine's own
        num_cores     that this process may use: no more threads than these, whatever is lent
        """
        self._num_threads, self._num_cores = num_threads, num_cores
        everybody = f"manta-cores-{os.geteuid()}-"
        self._name = f"{everybody}{secrets.token_hex(8)}"
        self._pattern = f"{everybody}*"
        remove_abandoned(self._pattern, ABANDONED_S)
        self._segment = Segment(self._name, ctypes.sizeof(_Entry), is_maker=True)
        self._own = _entry(self._segment)
        self._own.num_threads = num_threads
        self._others: dict[str, Segment] = {}
        self._refreshed_s = 0.0

    @contextmanager
    def step(self, num_tokens: int) -> Iterator[None]:
        """Computes a step of so many tokens, with torch's number of threads set for it."""
        self._own.computing = 1
        num_threads = self.num_threads(num_tokens)
        if num_threads != torch.get_num_threads():
            torch.set_num_threads(num_threads)
        try:
            yield
        finally:
            self._own.ended_ns = time.monotonic_ns()
            self._own.computing = 0

    def rest(self) -> None:
        """No step follows the last one."""
        self._own.ended_ns = 0

    def num_threads(self, num_tokens: int) -> int:
        if num_tokens < LENT_FROM_TOKENS:
            return self._num_threads
        self._refresh()
        now_ns = time.monotonic_ns()
        others = [_entry(segment) for segment in self._others.values()]
        busy = [one for one in others if one.computing or now_ns - one.ended_ns < RESTED_NS]
        idle_threads: int = sum(one.num_threads for one in others) - sum(one.num_threads for one in busy)
        return max(self._num_threads, min(self._num_cores, self._num_threads + idle_threads // (1 + len(busy))))

    def close(self) -> None:
        for segment in (self._segment, *self._others.values()):
            segment.close()
        self._others.clear()

    def _refresh(self) -> None:
        if time.monotonic() - self._refreshed_s < REFRESH_S:
            return
        self._refreshed_s = time.monotonic()
        names = set(held_segments(self._pattern)) - {self._name}
        for name in self._others.keys() - names:
            self._others.pop(name).close()
        for name in names - self._others.keys():
            try:
                self._others[name] = Segment(name, ctypes.sizeof(_Entry), is_maker=False)
            except (OSError, ValueError):  # it is made, or gone, just now
                continue


def open_core_lending(num_threads: int) -> CoreLending | None:
    """None where there is no shared memory for it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        return CoreLending(num_threads, cores)
    except OSError as error:
        log.info("cores are not lent: %s", error)
        return None


def _entry(segment: Segment) -> _Entry:
    assert segment.address is not None, "closed"
    return _Entry.from_address(segment.address)
