"""A real Redis on a unix socket, for tests."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["needs_redis", "redis_server"]

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Its URL. Ends with the block."""
    path = folder / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        until_s = time.monotonic() + 10
        while not answers(path):
            assert time.monotonic() < until_s and process.poll() is None, "redis-server does not answer"
            time.sleep(0.02)
        yield f"unix://{path}"
    finally:
        process.terminate()
        process.wait(10)


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        try:
            one.connect(str(path))
            one.sendall(b"PING\r\n")
            return one.recv(8).startswith(b"+PONG")
        except OSError:
            return False
