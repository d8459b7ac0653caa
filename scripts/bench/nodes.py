"""Two nodes of a Ray cluster on one Linux machine: network namespaces joined by a bridge whose ports can be cut.

Needs root and iproute2, and redis-server, which keeps the state of the control plane (GCS), to kill and restart that.
Processes are found and ended by their namespaces.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

from scripts.environment import ROOT
from scripts.manta.ray_environment import machine_variables, values_of

__all__ = ["HEAD", "WORKER", "Namespaces", "Nodes", "can_run"]

HEAD, WORKER = "10.77.0.1", "10.77.0.2"
BRIDGE, OUTSIDE = "manta0", "10.77.0.254"  # the bridge itself is where clients stand
LOCK = "/tmp/manta-nodes.lock"
LOCKED_S = 300.0  # timeout for other users of such nodes on this machine
REDIS_PORT, GCS_PORT, DASHBOARD_PORT = 6390, 6399, 8265


def can_run(has_redis: bool) -> str:
    """Why two nodes are not possible here, "" if they are."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    missing = [name for name in ("ip", *["redis-server"] * has_redis) if shutil.which(name) is None]
    return f"needs {' and '.join(missing)}" if missing else ""


class Namespaces:
    """A context manager of two nodes. Processes on them end with it."""

    def __init__(self) -> None:
        self._lock = open(LOCK, "w")  # locked while the nodes exist

    def __enter__(self) -> "Namespaces":
        deadline_s = time.monotonic() + LOCKED_S
        while not _is_locked(self._lock):
            if time.monotonic() > deadline_s:
                raise SystemExit("two nodes run on this machine already: wait for their end")
            time.sleep(1)
        _clear()  # leftovers of an earlier run
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{OUTSIDE}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for address in (HEAD, WORKER):
            space, port = _space(address), _port(address)
            _ip("netns", "add", space)
            _ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", port, "master", BRIDGE, "up")
            _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "route", "add", "default", "via", OUTSIDE)  # by it Ray finds its node's address
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _clear()
        self._lock.close()

    def command(self, address: str, command: list[str]) -> list[str]:
        """The command line that runs a command on a node."""
        return ["ip", "netns", "exec", _space(address), *command]

    def pids(self, address: str, name: str) -> list[int]:
        """Processes on a node whose command begins with `name`."""
        found = []
        for pid in _pids(_space(address)):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if command.startswith(name) or Path(command.split(" ")[0]).name == name:
                found.append(pid)
        return found

    def cut(self) -> None:
        """Pulls the worker's cable."""
        _ip("link", "set", _port(WORKER), "down")

    def mend(self) -> None:
        _ip("link", "set", _port(WORKER), "up")


class Nodes(Namespaces):
    """A context manager of a Ray cluster on both nodes, with its state in Redis if `has_redis`."""

    def __init__(self, num_cpus: int, has_redis: bool = True) -> None:
        """num_cpus   of each node, as told to Ray"""
        super().__init__()
        self._num_cpus = num_cpus
        self._has_redis = has_redis
        self._dir = Path(tempfile.mkdtemp(prefix="mn-", dir="/tmp"))
        self._children: list[subprocess.Popen[bytes]] = []
        self.dashboard = f"http://{HEAD}:{DASHBOARD_PORT}"
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            **values_of(machine_variables("haproxy", self._dir), {}),
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",  # HAProxy must be updated on a busy machine too
            "RAY_gcs_rpc_server_reconnect_timeout_s": "180",  # 60: a busy machine's streams do not end within it
            "RAY_AUTH_MODE": "disabled",  # nothing outside the namespaces can reach it
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

    def __enter__(self) -> "Nodes":
        reason = can_run(self._has_redis)
        if reason:
            raise SystemExit(reason)
        super().__enter__()
        if self._has_redis:
            self._spawn(
                HEAD,
                ["redis-server", "--port", str(REDIS_PORT), "--bind", HEAD, "--save", "", "--protected-mode", "no"],
            )
        self._ray(
            HEAD, "--head", f"--port={GCS_PORT}", f"--dashboard-host={HEAD}", f"--dashboard-port={DASHBOARD_PORT}"
        )
        self._ray(WORKER, f"--address={HEAD}:{GCS_PORT}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        for child in self._children:
            child.wait(10)
        shutil.rmtree(self._dir, ignore_errors=True)

    def kill_gcs(self) -> Callable[[], None]:
        """Kills Ray's control plane. Returns a function that restarts it with its state."""
        (pid,) = self.pids(HEAD, "gcs_server")
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        pairs = (pair.partition(b"=") for pair in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if pair)
        environment = {name: value for name, _, value in pairs}
        os.kill(pid, signal.SIGKILL)

        def again() -> None:
            self._spawn(
                HEAD, [part.decode() for part in command], {k.decode(): v.decode() for k, v in environment.items()}
            )

        return again

    def serve(self, *arguments: str) -> None:
        """Runs Ray's `serve` command against the cluster, in a process of its own."""
        program = str(Path(sys.executable).parent / "serve")
        self._run([program, *arguments, "--address", self.dashboard], self._env)

    def _spawn(self, address: str, command: list[str], env: Mapping[str, str] | None = None) -> None:
        self._run(self.command(address, command), env or self._env)

    def _run(self, command: list[str], env: Mapping[str, str]) -> None:
        self._children.append(
            subprocess.Popen(
                command,
                env=env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )

    def _ray(self, address: str, *more: str) -> None:
        program = str(Path(sys.executable).parent / "ray")
        redis = {"RAY_REDIS_ADDRESS": f"{HEAD}:{REDIS_PORT}"} if self._has_redis and address == HEAD else {}
        command = [program, "start", f"--node-ip-address={address}", f"--num-cpus={self._num_cpus}", *more]
        command += ["--object-store-memory=100000000", "--disable-usage-stats"]
        if address == HEAD:
            command += [f"--temp-dir={self._dir}"]
        started = subprocess.run(
            self.command(address, command),
            env={**self._env, **redis},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        if started.returncode:
            raise SystemExit(f"ray start on {address} failed: {started.stdout} {started.stderr}")


def _is_locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _space(address: str) -> str:
    return "manta-" + address.rpartition(".")[2]


def _port(address: str) -> str:
    return "mantap" + address.rpartition(".")[2]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _pids(space: str) -> list[int]:
    told = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True)
    return [int(pid) for pid in told.stdout.split()]


def _clear() -> None:
    """Ends all processes in our namespaces and removes them."""
    for address in (HEAD, WORKER):
        space = _space(address)
        for pid in _pids(space):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        deadline_s = time.monotonic() + 10
        while _pids(space) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        subprocess.run(["ip", "link", "del", _port(address)], capture_output=True)
        subprocess.run(["ip", "netns", "del", space], capture_output=True)
    subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)
