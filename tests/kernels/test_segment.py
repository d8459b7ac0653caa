"""Names in shared memory: what a killed process leaves there is removed, what is in use is not."""

import os
import time
from pathlib import Path

import pytest

from kernels.native import segment
from kernels.native.segment import ABANDONED_S, Segment, remove_abandoned


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(segment, "shared_memory_folder", lambda: tmp_path)
    return tmp_path


def grow_old(path: Path) -> None:
    at_s = time.time() - ABANDONED_S - 1
    os.utime(path, (at_s, at_s))


def test_a_name_that_a_killed_maker_left_is_removed(folder: Path) -> None:
    pid = os.fork()
    if pid == 0:
        Segment("manta-left", 4096, is_maker=True)
        os._exit(0)  # as a kill: nothing is tidied up
    os.waitpid(pid, 0)
    remove_abandoned("manta-*")
    assert (folder / "manta-left").exists(), "it may be made just now"
    grow_old(folder / "manta-left")
    remove_abandoned("other-*")
    assert (folder / "manta-left").exists()
    remove_abandoned("manta-*")
    assert not (folder / "manta-left").exists()


def test_a_name_that_is_waited_for_stays(folder: Path) -> None:
    first = Segment("manta-used", 4096, is_maker=True)
    grow_old(folder / "manta-used")
    remove_abandoned("manta-*")
    second = Segment("manta-used", 4096, is_maker=False)
    first.forget_name()
    assert not (folder / "manta-used").exists()
    second.close()
    first.close()


def test_what_holds_a_name_is_closed_with_it(folder: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    first = Segment("manta-one", 4096, is_maker=True)
    first.close()
    other = Segment("manta-two", 4096, is_maker=True)
    other.forget_name()
    other.close()
    assert set(os.listdir("/proc/self/fd")) == before
