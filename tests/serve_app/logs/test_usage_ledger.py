"""The usage ledger: whole lines whatever happens to the disk, rotated, written by a thread."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from configs.load import ConfigError
from configs.schema import UsageLedgerConfig
from serve_app.generation.usage import Usage
from serve_app.logs.ledger_file import LedgerFile, ledger_name
from serve_app.logs.request_record import RequestFacts
from serve_app.logs.usage_ledger import LedgerLine, UsageLedger


def facts(request_id: str, api: str = "chat") -> RequestFacts:
    return RequestFacts(
        time=1.5,
        request_id=request_id,
        trace_id="",
        method="POST",
        route="/v1/chat/completions",
        api=api,
        status=200,
        error="",
        model="toy",
        key="alice",
        usage=Usage(7, 5, 3, 2),
        first_token_s=0.1,
        duration_s=0.2,
        finish_reasons=("stop",),
    )


def read(path: Path) -> list[LedgerLine]:
    """Fails on a line that is cut."""
    text = path.read_bytes()
    assert text.endswith(b"\n") or not text
    return [msgspec.json.decode(line, type=LedgerLine) for line in text.splitlines()]


def test_a_line_has_what_a_request_used(tmp_path: Path) -> None:
    ledger = UsageLedger(UsageLedgerConfig(folder=str(tmp_path / "new")))
    ledger.on_request(facts("a"))
    ledger.on_request(facts("health", api=""))
    ledger.close()
    assert f"-{os.getpid()}.jsonl" in ledger.path.name
    expected = LedgerLine(1.5, "a", "alice", "toy", "chat", 7, 3, 5, 2, 200, "", ("stop",))
    assert read(ledger.path) == [expected]


def test_files_are_rotated_by_bytes_and_the_oldest_go(tmp_path: Path) -> None:
    ledger = UsageLedger(UsageLedgerConfig(folder=str(tmp_path), max_bytes=500, num_files=3))
    for number in range(40):
        ledger.on_request(facts(f"r{number:03}"))
    ledger.close()
    files = [ledger.path, *(ledger.path.with_name(f"{ledger.path.name}.{number}") for number in (1, 2, 3))]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(path.stat().st_size <= 500 for path in files)
    kept = [line.request_id for path in reversed(files) for line in read(path)]
    assert kept == [f"r{number:03}" for number in range(40 - len(kept), 40)]


def test_a_full_disk_loses_whole_lines_counts_them_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lost: list[int] = []
    ledger = UsageLedger(UsageLedgerConfig(folder=str(tmp_path)), lost.append)
    write, room = os.write, [400]

    def limited(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(fd, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr("serve_app.logs.usage_ledger.os.write", limited)
    for number in range(6):
        ledger.on_request(facts(f"r{number}"))
    ledger.close()
    whole = [line.request_id for line in read(ledger.path)]
    assert 0 < len(whole) < 6 and whole == [f"r{number}" for number in range(len(whole))]
    assert sum(lost) == 6 - len(whole)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_disk_that_hangs_does_not_hold_up_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, goes_on = UsageLedger(UsageLedgerConfig(folder=str(tmp_path))), threading.Event()
    write = os.write

    def hanging(fd: int, data: bytes) -> int:
        assert goes_on.wait(30)
        return write(fd, data)

    monkeypatch.setattr("serve_app.logs.usage_ledger.os.write", hanging)
    for number in range(100):
        ledger.on_request(facts(f"r{number}"))  # returns: the disk hangs until the next line
    goes_on.set()
    ledger.close()
    assert len(read(ledger.path)) == 100


def test_processes_of_a_node_do_not_share_a_file(tmp_path: Path) -> None:
    code = (
        "import sys; from tests.serve_app.logs.test_usage_ledger import *\n"
        "ledger = UsageLedger(UsageLedgerConfig(folder=sys.argv[1]))\n"
        "ledger.on_request(facts('theirs')); ledger.close()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=50)
    ledger = UsageLedger(UsageLedgerConfig(folder=str(tmp_path)))
    ledger.on_request(facts("ours"))
    ledger.close()
    assert sorted(line.request_id for path in tmp_path.iterdir() for line in read(path)) == ["ours", "theirs"]
    assert len(list(tmp_path.iterdir())) == 2


def left_by(pid: int, tmp_path: Path, ages: Sequence[int], node: str = "") -> list[Path]:
    """The files of a ledger of 100 bytes each, last written so many seconds ago."""
    base = tmp_path / ledger_name(node or ledger_node(tmp_path), pid)
    files = [base.with_name(f"{base.name}.{number}" if number else base.name) for number in range(len(ages))]
    for file, age_s in zip(files, ages, strict=True):
        file.write_bytes(b"x" * 99 + b"\n")
        os.utime(file, (1e9 - age_s, 1e9 - age_s))
    return files


def ledger_node(folder: Path) -> str:
    ledger = UsageLedger(UsageLedgerConfig(folder=str(folder / "other")))
    ledger.close()
    return ledger.path.name.removeprefix("usage-").removesuffix(f"-{os.getpid()}.jsonl")


def test_of_dead_processes_as_many_files_are_kept_as_of_one_the_oldest_go(tmp_path: Path) -> None:
    one, other = left_by(1_000_001, tmp_path, [0, 20, 40]), left_by(1_000_002, tmp_path, [10, 30])
    ledger = UsageLedger(UsageLedgerConfig(folder=str(tmp_path), max_bytes=500, num_files=3))
    assert sorted(tmp_path.glob("*.jsonl*")) == sorted([ledger.path, one[0], other[0], one[1]])
    more = left_by(1_000_003, tmp_path, [5])
    for number in range(4):  # which rotates
        ledger.on_request(facts(f"r{number}"))
    ledger.close()
    assert {file for file in (*one, *other, *more) if file.exists()} == {one[0], more[0], other[0]}


def test_dead_processes_have_no_more_bytes_than_one_may_have(tmp_path: Path) -> None:
    one = left_by(1_000_001, tmp_path, [0, 10, 20, 30])
    UsageLedger(UsageLedgerConfig(folder=str(tmp_path), max_bytes=50, num_files=5)).close()
    assert [file.exists() for file in one] == [True, True, False, False]


def test_files_of_live_processes_and_of_other_nodes_are_not_removed(tmp_path: Path) -> None:
    config = UsageLedgerConfig(folder=str(tmp_path), num_files=1)
    live, elsewhere = (
        left_by(1_000_001, tmp_path, [0, 10, 20]),
        left_by(1, tmp_path, [0, 10], node=f"{ledger_node(tmp_path)}-7"),
    )
    strange = tmp_path / f"{live[0].stem}-notes.jsonl"
    strange.write_text("an operator's own")
    file = LedgerFile(live[0], config)
    file.open()
    UsageLedger(config).close()
    assert all(path.exists() for path in (*live, *elsewhere, strange))
    file.close()
    UsageLedger(config).close()
    assert [path.exists() for path in (*live, *elsewhere, strange)] == [True, False, False, True, True, True]


def test_a_folder_that_cannot_be_written_is_a_fault_of_the_config(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"api\.usage_ledger\.folder: cannot write"):
        UsageLedger(UsageLedgerConfig(folder=str(tmp_path / "file")))
