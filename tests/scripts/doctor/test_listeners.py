"""Who listens: the kernel's tables, and the names of programs without their arguments."""

import os
import socket
from pathlib import Path

import pytest

from scripts.manta.doctor.facts import Listener
from scripts.manta.doctor.listeners import auth_mode_of, listeners, program_of


def mine(port: int) -> Listener:
    found = listeners()
    assert found is not None
    (one,) = [one for one in found if one.port == port]
    return one


@pytest.mark.parametrize(
    ("family", "address"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")],
)
def test_a_socket_of_this_process_is_found_with_its_holder(family: int, address: str) -> None:
    if not Path("/proc/net/tcp").exists():
        assert listeners() is None
        return
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        listener.listen()
        one = mine(listener.getsockname()[1])
    assert (one.address, one.pid) == (address, os.getpid())


def test_without_proc_nothing_is_known(tmp_path: Path) -> None:
    assert listeners(tmp_path) is None


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (["/usr/sbin/nginx", "-g", "secret"], "nginx"),
        (["/usr/bin/python3.11", "/opt/bin/server.py", "--api-key", "secret"], "server.py"),
        (["python", "-m", "http.server", "--secret"], "http.server"),
        (["python", "-c", "secret"], "python"),
        (
            ["python3", "-u", "/site-packages/ray/dashboard/dashboard.py", "--token=secret"],
            "ray/dashboard/dashboard.py",
        ),
        (["ray::ServeReplica:manta:Ingress.handle", ""], "ray::ServeReplica:manta:Ingress.handle"),
    ],
)
def test_a_program_is_named_without_its_arguments(words: list[str], program: str) -> None:
    assert program_of("\0".join(words).encode() + b"\0") == program


def process(proc: Path, pid: int, parent: int, environment: bytes) -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "status").write_text(f"Name:\tx\nPPid:\t{parent}\n")
    (proc / str(pid) / "environ").write_bytes(environment)


def test_a_worker_that_wrote_over_its_environment_has_its_raylets_mode(tmp_path: Path) -> None:
    process(tmp_path, 1, 0, b"A=1\0RAY_AUTH_MODE=token\0B=2")
    process(tmp_path, 2, 1, b"\0\0\0")
    process(tmp_path, 3, 1, b"RAY_AUTH_MODE=Disabled")
    process(tmp_path, 4, 9, b"NOT_RAY_AUTH_MODE=token")
    assert [auth_mode_of(tmp_path, pid) for pid in (1, 2, 3, 4)] == ["token", "token", "disabled", ""]
