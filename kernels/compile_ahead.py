"""Compiles Triton kernels ahead of their launch, on all cores: one after the other, those of an engine take half a
minute, and hundreds of them half an hour.

What would be launched is noted instead (`noted`), compiled by processes that have no card (`CompilePool`), and lies in
Triton's cache on disk when it is launched.
"""

import contextlib
import functools
import hashlib
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

__all__ = ["MARKER", "MAX_PROCESSES", "Absent", "CompilePool", "Variant", "compile_variant", "noted", "settle_keys"]

MAX_PROCESSES = 16
ATTEMPTS = 3  # of what was lost with a process
TIMEOUT_S = 120.0  # for all that is compiled at once: what takes longer is compiled at its launch
MARKER = "manta-compiled-"  # a file in Triton's cache: what was asked for together is there
KERNELS = Path(__file__).parent

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Made = TypeVar("Made")


class Variant(NamedTuple):
    """What Triton compiles at once: a kernel, and in its own words for which arguments."""

    module: str
    name: str
    data: str


class CompilePool:
    """Processes that know nothing of the card. They start at their first use, and anew where one of them died."""

    def __init__(self, num_processes: int | None = None) -> None:
        self._num_processes = num_processes or min(MAX_PROCESSES, os.cpu_count() or 1)
        self._executor: ProcessPoolExecutor | None = None

    def begin(self) -> None:
        """Has them import what they need, while the caller does something else."""
        executor = self._running()
        for _ in range(self._num_processes):
            executor.submit(settle_keys)

    def begin_where_cold(self) -> None:
        """The same, if nothing was compiled yet for this cache of Triton's: else they will hardly be needed."""
        if next(_cache_folder().glob(f"{MARKER}*"), None) is None:
            self.begin()

    def compile_launches(self, work: Callable[[], object], timeout_s: float = TIMEOUT_S) -> int:
        """Compiles what `work` would launch, and returns how many variants there were.

        `work` is run without its launches: its outputs mean nothing, and it must not look into them.
        """
        settle_keys()
        with noted() as variants:
            work()
        self.compile_noted(variants, timeout_s)
        return len(variants)

    def compile_noted(self, variants: Iterable[Variant], timeout_s: float = TIMEOUT_S) -> None:
        """Compiles them for this process's card. What does not compile is logged."""
        from triton.runtime import driver

        target = driver.active.get_current_target()
        marker = _cache_folder() / f"{MARKER}{_digest(target, variants)}"
        if marker.exists():
            return
        errors = self.compile(target, variants, timeout_s)
        for error in errors:  # it will fail where it is launched, too, and say so there
            log.warning("%s", error)
        if not errors:
            with contextlib.suppress(OSError):
                marker.touch()

    def compile(self, target: Any, variants: Iterable[Variant], timeout_s: float = TIMEOUT_S) -> list[str]:
        """Returns what went wrong, of those that were not compiled. After `timeout_s` the processes are killed."""
        variants = sorted(variants)
        made = self._results([functools.partial(compile_variant, target, variant) for variant in variants], timeout_s)
        errors = []
        for variant, result in zip(variants, made, strict=True):
            error = f"{variant.name} was not compiled: {result}" if isinstance(result, Exception) else result
            if error:
                errors.append(error)
        return errors

    def map(self, function: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
        """In order, as of an executor."""
        return self._running().map(function, items)

    def close(self) -> None:
        """Ends the processes, whatever they are doing."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        processes = list((getattr(executor, "_processes", None) or {}).values())
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()

    def _results(self, tasks: list[Callable[[], str]], timeout_s: float) -> list[str | Exception]:
        """Of each task what it returned or raised. A process that dies takes all along: they are tried once more."""
        deadline_s = time.monotonic() + timeout_s
        found: dict[int, str | Exception] = {}
        for _ in range(ATTEMPTS):
            left = [at for at in range(len(tasks)) if isinstance(found.get(at, BrokenProcessPool()), BrokenProcessPool)]
            futures = self._submitted([tasks[at] for at in left])
            found |= {at: _result(future, deadline_s) for at, future in zip(left, futures, strict=True)}
            if any(isinstance(result, (BrokenProcessPool, TimeoutError)) for result in found.values()):
                self.close()
            if time.monotonic() > deadline_s:
                break
        return [found[at] for at in range(len(tasks))]

    def _submitted(self, tasks: list[Callable[[], str]]) -> "list[Future[str]]":
        executor = self._running()
        futures: list[Future[str]] = []
        for task in tasks:
            try:
                futures.append(executor.submit(task))
            except BrokenProcessPool as error:  # a process died meanwhile
                futures.append(Future())
                futures[-1].set_exception(error)
        return futures

    def _running(self) -> ProcessPoolExecutor:
        if self._executor is None or getattr(self._executor, "_broken", False):
            self.close()
            # spawned: what a forked child has of CUDA and of threads is of no use
            context = multiprocessing.get_context("spawn")
            arguments = (str(_cache_folder()),)
            self._executor = ProcessPoolExecutor(self._num_processes, context, initializer=_begin, initargs=arguments)
        return self._executor


def _result(future: "Future[str]", deadline_s: float) -> str | Exception:
    try:
        return future.result(max(0.0, deadline_s - time.monotonic()))
    except FutureTimeoutError:
        return TimeoutError("it took too long")
    except Exception as error:  # of any kind: compiling ahead only saves time
        return error


def _begin(cache_folder: str) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    from triton import knobs

    knobs.cache.dir = cache_folder
    settle_keys()


def _end_with_parent(parent: int) -> None:
    """A compiler outlives its engine by a second, even if that was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _cache_folder() -> Path:
    from triton import knobs

    return Path(knobs.cache.dir)


def settle_keys() -> None:
    """To Triton's key of a kernel belongs what it calls, as far as that was looked at before: so all are, in order."""
    for _ in _keys():
        pass


def _keys() -> Iterator[str]:
    from triton.runtime import JITFunction

    for path in sorted(KERNELS.glob("*/*triton.py")):
        module = import_module(f"kernels.{path.parent.name}.{path.stem}")
        for _, kernel in sorted(vars(module).items()):
            if isinstance(kernel, JITFunction):
                yield kernel.cache_key


def _digest(target: Any, variants: Iterable[Variant]) -> str:
    """Of everything that decides what is compiled."""
    import triton

    parts = [triton.__version__, str(target), *_keys(), *map(str, sorted(variants))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


@contextlib.contextmanager
def noted() -> Iterator[set[Variant]]:
    """Launches that would have something compiled are noted instead."""
    from triton import knobs

    variants: set[Variant] = set()

    def note(*, fn: Any, compile: dict[str, Any], **more: Any) -> bool:
        variants.add(Variant(fn.module, fn.name, compile["specialization_data"]))
        return True  # so much for it

    before = knobs.runtime.jit_cache_hook
    knobs.runtime.jit_cache_hook = note
    try:
        yield variants
    finally:
        knobs.runtime.jit_cache_hook = before


def compile_variant(target: Any, variant: Variant) -> str:
    """Returns what went wrong."""
    from triton.runtime import driver

    driver.set_active(Absent(target))
    try:
        kernel = getattr(import_module(variant.module), variant.name).preload(variant.data)
    except Exception as error:  # of any kind
        return f"{variant.name} was not compiled: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    with contextlib.suppress(Exception):  # it is built at the launch then
        _build_launcher(kernel)
    return ""


def _build_launcher(kernel: Any) -> None:
    """What hands over arguments of these types: up to Triton 3.6 C, compiled at the first launch, for 0.3 s each."""
    from triton.backends.nvidia import driver

    if hasattr(driver, "make_launcher") and driver.libcuda_dirs():  # raises where nothing can be launched
        driver.CudaLauncher(kernel.src, kernel.metadata)


class Absent:
    """A driver that knows for which card to compile, and has none."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        return self._target
