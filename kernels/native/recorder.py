"""Recorded kernel calls: the C functions that a step calls, kept with their arguments and replayed in one call. For a
CPU what a CUDA graph is for a GPU: nothing of Python runs between two kernels, and the GIL is released once.

Addresses are recorded as they are: whoever records keeps the tensors alive, in their places.
"""

import ctypes
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["CallRecorder", "NativeFunction", "NativeLibrary", "Recording"]

NUM_INTS, NUM_FLOATS = 24, 4  # as in replay.c
INTEGERS = ctypes.c_void_p, ctypes.c_int64
MACHINES = "x86_64", "aarch64", "arm64"  # whose calling conventions replay.c speaks of


class _Call(ctypes.Structure):
    _fields_ = [
        ("kernel", ctypes.c_void_p),
        ("ints", ctypes.c_int64 * NUM_INTS),
        ("floats", ctypes.c_float * NUM_FLOATS),
    ]


class NativeFunction:
    """A C function without a result, or with one that is not worth recording. Set argtypes before it is recorded."""

    def __init__(self, function: Any, recorder: "CallRecorder") -> None:
        self._function = function
        self._recorder = recorder

    @property
    def argtypes(self) -> Sequence[Any]:
        return self._function.argtypes or ()

    @argtypes.setter
    def argtypes(self, types: Sequence[Any]) -> None:
        self._function.argtypes = types

    @property
    def restype(self) -> Any:
        return self._function.restype

    @restype.setter
    def restype(self, kind: Any) -> None:
        self._function.restype = kind

    @property
    def address(self) -> int:
        """Of the function's code, which other compiled code may call."""
        address = ctypes.cast(self._function, ctypes.c_void_p).value
        assert address is not None
        return address

    def __call__(self, *args: Any) -> Any:
        if self._recorder.calls is not None:
            self._recorder.calls.append(self._as_call(args))
        return self._function(*args)

    def _as_call(self, args: Sequence[Any]) -> _Call:
        kinds = list(zip(self.argtypes, args, strict=True))
        ints = [int(arg or 0) for kind, arg in kinds if kind in INTEGERS]
        floats = [float(arg) for kind, arg in kinds if kind is ctypes.c_float]
        assert len(ints) + len(floats) == len(args) and len(ints) <= NUM_INTS and len(floats) <= NUM_FLOATS
        return _Call(self.address, (ctypes.c_int64 * NUM_INTS)(*ints), (ctypes.c_float * NUM_FLOATS)(*floats))


class NativeLibrary:
    """A shared object, whose functions can be recorded."""

    def __init__(self, library: ctypes.CDLL, recorder: "CallRecorder") -> None:
        self._library = library
        self._recorder = recorder

    def __getattr__(self, name: str) -> NativeFunction:
        function = NativeFunction(getattr(self._library, name), self._recorder)
        setattr(self, name, function)  # the same one next time, with its types
        return function


class Recording:
    """Calls in their order."""

    def __init__(self, calls: Sequence[_Call], replay: Callable[..., None]) -> None:
        self._calls = (_Call * len(calls))(*calls)
        self._replay = replay

    def __len__(self) -> int:
        return len(self._calls)

    def replay(self) -> None:
        self._replay(self._calls, len(self._calls))


class CallRecorder:
    """Notes the calls of one thread's kernels while it is asked to. Shared by all libraries of a compiler."""

    def __init__(self) -> None:
        self.calls: list[_Call] | None = None  # None: not recording
        self._replay: Callable[..., None] | None = None

    def use(self, replay: Any) -> None:
        """Takes the compiled `replay` of replay.c."""
        replay.argtypes, replay.restype = [ctypes.c_void_p, ctypes.c_int64], None
        self._replay = replay

    @property
    def is_supported(self) -> bool:
        return self._replay is not None and sys.platform != "win32" and platform.machine() in MACHINES

    @contextmanager
    def recording(self) -> Iterator[Callable[[], Recording]]:
        """Yields what returns the calls so far."""
        assert self._replay is not None and self.calls is None
        self.calls, replay = [], self._replay
        try:
            yield lambda: Recording(self.calls or (), replay)
        finally:
            self.calls = None
