"""A memory cgroup for one process, as a container has it: the kernel's OOM killer ends what passes its limit.

Not RLIMIT_AS: Ray's failure handler asks for memory itself, recurses when it gets none, and the stack that overflows
jumps the guard page into the object store's shared pages, which then takes the raylet down.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["memory_group"]

ROOT = Path("/sys/fs/cgroup")


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[Callable[[int], None]]:
    """Moves a process into a cgroup with this limit. Skips where no such cgroup may be made."""
    version_1 = (ROOT / "memory").is_dir()
    group = (ROOT / "memory" if version_1 else ROOT) / f"manta-test-{os.getpid()}"
    limit = group / ("memory.limit_in_bytes" if version_1 else "memory.max")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"needs to make a memory cgroup: {error}")
    try:
        if not os.access(limit, os.W_OK):
            pytest.skip(f"needs the memory controller in {ROOT}")
        limit.write_text(str(limit_bytes))
        yield lambda pid: _move(pid, group)
    finally:
        _remove(group)


def _move(pid: int, group: Path) -> None:
    (group / "cgroup.procs").write_text(str(pid))


def _remove(group: Path) -> None:
    for pid in (group / "cgroup.procs").read_text().split():
        _move(int(pid), group.parent)
    for _ in range(50):  # a process that has just ended may still be charged
        try:
            group.rmdir()
            return
        except OSError:
            time.sleep(0.1)
    group.rmdir()
