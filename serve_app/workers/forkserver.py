"""python -m serve_app.workers.forkserver FD: the fork server, which loads shared data and forks workers on request.

Nothing here starts a thread, so a fork is safe, and takes milliseconds: a killed worker is replaced at once.
Workers end when their socket closes, and with the fork server; the fork server ends when its socket closes.
"""

import ctypes
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import msgspec

from serve_app.workers.frames import Answer, Load, Task, function_at, receive, send

__all__ = ["FORK", "main"]

FORK = b"fork"  # sent with a worker's socket and its memory limit; answered with the process id
PR_SET_PDEATHSIG = 1


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C of a terminal is left to the parent
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    control = socket.socket(fileno=int(sys.argv[1]))
    loaded: dict[str, Any] = {}
    while True:
        message, files, _, _ = socket.recv_fds(control, len(FORK), 1)
        if not message:
            return
        if message != FORK:
            _load(control, message, loaded)
            continue
        limit_bytes = msgspec.msgpack.decode(receive(control) or b"", type=int)
        pid = os.fork()
        if pid == 0:
            try:
                control.close()
                _work(socket.socket(fileno=files[0]), loaded, limit_bytes)
            finally:
                os._exit(0)
        os.close(files[0])
        send(control, msgspec.msgpack.encode(pid))


def _load(control: socket.socket, begun: bytes, loaded: dict[str, Any]) -> None:
    while len(begun) < len(FORK):
        begun += control.recv(len(FORK) - len(begun))
    load = msgspec.msgpack.decode(receive(control) or b"", type=Load)
    loaded[load.key] = function_at(load.function)(load.data)


def _work(peer: socket.socket, loaded: dict[str, Any], limit_bytes: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + limit_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while (frame := receive(peer)) is not None:
        task = msgspec.msgpack.decode(frame, type=Task)
        try:
            answer = Answer(function_at(task.function)(loaded[task.key], task.data))
        except MemoryError:
            answer = Answer(out_of_memory=True)
        except Exception as error:  # of any kind: sent back to the caller
            answer = Answer(error=f"{type(error).__name__}: {error}")
        send(peer, msgspec.msgpack.encode(answer))


if __name__ == "__main__":
    main()
