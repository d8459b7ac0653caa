"""Who has how many threads: every engine its own at least, all together no more than they have."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.device import core_lending
from engine.device.core_lending import LENT_FROM_TOKENS, CoreLending
from kernels.native import segment

PROMPT = LENT_FROM_TOKENS
OTHER = """
import sys, time
from pathlib import Path
from kernels.native import segment
segment.shared_memory_folder = lambda: Path(sys.argv[1])
from engine.device.core_lending import CoreLending
lending = CoreLending(3, 64)
with lending.step(1):
    print("computing", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One that no engine of this machine uses. Looks and rests take no time."""
    monkeypatch.setattr(segment, "shared_memory_folder", lambda: tmp_path)
    monkeypatch.setattr(core_lending, "REFRESH_S", 0.0)
    monkeypatch.setattr(core_lending, "RESTED_NS", 0)
    before = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(before)


def test_a_prompt_has_the_idle_engines_threads_and_a_token_its_own() -> None:
    first, second = CoreLending(1, 8), CoreLending(2, 8)
    assert (first.num_threads(PROMPT), second.num_threads(PROMPT)) == (3, 3)
    assert (first.num_threads(PROMPT - 1), second.num_threads(1)) == (1, 2)
    with first.step(PROMPT):
        assert torch.get_num_threads() == 3
        assert second.num_threads(PROMPT) == 2, "who computes lends nothing"
        with second.step(PROMPT):
            assert first.num_threads(PROMPT) == 1
    assert second.num_threads(PROMPT) == 3
    with first.step(1):
        assert torch.get_num_threads() == 1
    first.close()
    assert second.num_threads(PROMPT) == 2
    second.close()


def test_no_more_threads_than_cores() -> None:
    lendings = [CoreLending(2, 5) for _ in range(4)]
    assert lendings[0].num_threads(PROMPT) == 5
    with lendings[1].step(1), lendings[2].step(1):
        assert lendings[0].num_threads(PROMPT) == 2, "two idle threads for three engines"
    for lending in lendings:
        lending.close()


def test_all_together_have_no_more_than_all() -> None:
    lendings = [CoreLending(threads, 64) for threads in (1, 2, 3, 4)]
    for mask in range(1, 16):
        busy = [lending for i, lending in enumerate(lendings) if mask >> i & 1]
        for lending in busy:
            lending._own.computing = 1
        counts = [lending.num_threads(PROMPT) for lending in busy]
        assert sum(counts) <= 10 and all(n >= one._num_threads for n, one in zip(counts, busy, strict=True))
        assert len(busy) > 1 or counts == [10]
        for lending in busy:
            lending._own.computing = 0
    for lending in lendings:
        lending.close()


def test_an_engine_between_two_steps_lends_nothing_unless_it_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = CoreLending(1, 8), CoreLending(1, 8)
    monkeypatch.setattr(core_lending, "RESTED_NS", 10**10)
    assert first.num_threads(PROMPT) == 2, "it has computed nothing yet"
    with second.step(1):
        pass
    assert first.num_threads(PROMPT) == 1
    second.rest()
    assert first.num_threads(PROMPT) == 2
    first.close()
    second.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs fcntl")
def test_one_that_was_killed_while_it_computed_holds_nothing(folder: Path) -> None:
    lending = CoreLending(1, 64)
    other = subprocess.Popen([sys.executable, "-c", OTHER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "computing\n"
    third = CoreLending(2, 64)
    assert lending.num_threads(PROMPT) == 2, "of the idle threads, two, the half"
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()
    end_s = time.monotonic() + 5
    while lending.num_threads(PROMPT) != 3 and time.monotonic() < end_s:
        time.sleep(0.01)
    assert lending.num_threads(PROMPT) == 3
    third.close()
    lending.close()
    (left,) = folder.iterdir()
    CoreLending(1, 64).close()
    assert left.exists(), "it may be made just now"
    os.utime(left, (0, 0))
    CoreLending(1, 64).close()
    assert not left.exists()
