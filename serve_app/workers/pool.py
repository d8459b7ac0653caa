"""Worker pool: runs tasks in processes with limits of CPU time and memory, a few at a time."""

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from engine.errors import Overloaded
from serve_app.workers.forkserver import FORK
from serve_app.workers.frames import Answer, Load, Task, receive, send

__all__ = ["LimitExceeded", "WorkerPool"]

TICK_S = 0.05  # between checks of a worker's CPU time
LONG_S = 0.25  # CPU time after which a task's priority is lowered
LOW_PRIORITY = 5  # nice value: a quarter of the others' share
START_S = 60.0  # timeout of the fork server's start and of a fork: a machine may be busy
MAX_WALL_FACTOR = 3.0  # wall time limit of a task, as a multiple of its CPU time limit


class LimitExceeded(Exception):
    """A task exceeded a limit. The message names it."""


class WorkerGone(RuntimeError):
    pass


class WorkerPool:
    """A fork server and its workers, started at first use. Usable from any event loop and thread."""

    def __init__(
        self, num_workers: int | None = None, cpu_s: float = 4.0, memory_bytes: int = 512 << 20, max_waiting: int = 256
    ) -> None:
        """num_workers    at the same time; None: a quarter of the machine's CPUs, from 2 to 8
        cpu_s          CPU time of one task, in seconds
        memory_bytes   of one task, besides the shared data
        max_waiting    tasks that may wait; one more is refused
        """
        self._cpu_s, self._memory_bytes, self._max_waiting = cpu_s, memory_bytes, max_waiting
        self._loads: dict[str, Load] = {}
        self._server: _ForkServer | None = None
        self._lock = threading.Lock()
        num_workers = num_workers or max(2, min(8, (os.cpu_count() or 1) // 4))
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="worker")
        self._workers = threading.local()  # each thread has one
        self._alive: set[_Worker] = set()
        self._num_waiting = 0

    def begin(self) -> None:
        """Starts the processes ahead of the first task."""
        self._threads.submit(self._worker)

    def share(self, key: str, function: str, data: bytes) -> None:
        """Shares the result of `function(data)` with tasks of this key. Done once for a key."""
        with self._lock:
            self._loads.setdefault(key, Load(key, function, data))

    async def run(self, function: str, key: str, data: bytes) -> bytes:
        """Runs a task. Raises LimitExceeded, Overloaded, and RuntimeError for an error of the function."""
        if self._num_waiting >= self._max_waiting:
            raise Overloaded("too many requests wait to be prepared", retry_after_s=5)
        self._num_waiting += 1
        try:
            task = msgspec.msgpack.encode(Task(function, key, data))
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, self._run, task)
        finally:
            self._num_waiting -= 1
        if answer.out_of_memory:
            raise LimitExceeded(f"it takes more than {self._memory_bytes >> 20} MiB of memory")
        if answer.error:
            raise RuntimeError(answer.error)
        return answer.data

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for worker in list(self._alive):
            worker.close()
        self._alive.clear()
        if self._server is not None:
            self._server.close()

    def _run(self, task: bytes) -> Answer:
        """Runs in a thread of the pool."""
        for is_last in (False, True):
            worker = self._worker()
            try:
                answer = worker.run(task, self._cpu_s)
            except WorkerGone:  # it died while it was idle
                self._drop(worker)
                if is_last:
                    raise
                continue
            except BaseException:
                self._drop(worker)
                raise
            if answer.out_of_memory or worker.is_low:
                self._drop(worker)
            return answer
        raise AssertionError("unreachable")

    def _worker(self) -> "_Worker":
        """This thread's worker, with all shared data."""
        worker: _Worker | None = getattr(self._workers, "one", None)
        if worker is not None and worker.num_loads == len(self._loads):
            return worker
        if worker is not None:
            self._drop(worker)
        with self._lock:
            if self._server is not None and not self._server.is_alive:
                self._server.close()
                self._server = None
            self._server = self._server or _ForkServer()
            worker = self._server.fork(list(self._loads.values()), self._memory_bytes)
        self._workers.one = worker
        self._alive.add(worker)
        return worker

    def _drop(self, worker: "_Worker") -> None:
        worker.close()
        self._alive.discard(worker)
        self._workers.one = None


class _ForkServer:
    def __init__(self) -> None:
        self._control, there = socket.socketpair()
        self._control.settimeout(START_S)
        with there:
            root = str(Path(__file__).parents[2])
            path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serve_app.workers.forkserver", str(there.fileno())],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"},
            )
        self._num_loads = 0

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def fork(self, loads: list[Load], memory_bytes: int) -> "_Worker":
        try:
            for load in loads[self._num_loads :]:
                self._control.sendall(b"load")
                send(self._control, msgspec.msgpack.encode(load))
                self._num_loads += 1
            here, there = socket.socketpair()
            with there:
                socket.send_fds(self._control, [FORK], [there.fileno()])
                send(self._control, msgspec.msgpack.encode(memory_bytes))
                pid = receive(self._control)
        except OSError:
            self.close()
            raise
        if pid is None:
            here.close()
            self.close()
            raise RuntimeError("the process that workers are forked from has ended")
        return _Worker(here, msgspec.msgpack.decode(pid, type=int), len(loads))

    def close(self) -> None:
        self._control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class _Worker:
    def __init__(self, peer: socket.socket, pid: int, num_loads: int) -> None:
        self.num_loads = num_loads
        self.is_low = False  # low priority, for good: only root may raise it again
        self._peer = peer
        self._pid = pid
        # a pidfd: a process id may be reused before it is killed
        self._handle = os.pidfd_open(pid) if sys.platform == "linux" else None
        peer.settimeout(START_S)

    def run(self, task: bytes, cpu_s: float) -> Answer:
        """Raises LimitExceeded, and WorkerGone if the task was not started; the worker is unusable then."""
        used_s, began_s = _cpu_s(self._pid), time.monotonic()
        try:
            send(self._peer, task)
        except ConnectionError as error:
            raise WorkerGone("a worker has ended between two tasks") from error
        while not select.select([self._peer], [], [], TICK_S)[0]:
            now_s, wall_s = _cpu_s(self._pid), time.monotonic() - began_s
            took_s = now_s - used_s if now_s else wall_s
            if took_s > LONG_S and not self.is_low:
                self._lower_priority()
            if took_s > cpu_s or wall_s > MAX_WALL_FACTOR * cpu_s:
                raise LimitExceeded(f"it takes more than {cpu_s:g} s of a CPU")
        try:
            frame = receive(self._peer)
        except ConnectionError:
            frame = None
        if frame is None:  # an allocation that fails outside of Python ends the process
            return Answer(out_of_memory=True)
        return msgspec.msgpack.decode(frame, type=Answer)

    def _lower_priority(self) -> None:
        """Lowers the priority, in favor of short tasks."""
        self.is_low = True
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._pid, LOW_PRIORITY)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._handle is not None:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            else:
                os.kill(self._pid, signal.SIGKILL)
        if self._handle is not None:
            os.close(self._handle)
        self._peer.close()


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process; 0.0 where the system does not report them."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
