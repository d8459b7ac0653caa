"""C kernels of arm64 on any machine: cross-compiled, run by qemu-user in a process of their own, called like others.

A call sends the storage of every tensor that an argument points into, and takes it back. Debian and Ubuntu have what it
needs: apt-get install qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross
"""

import atexit
import ctypes
import functools
import gc
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kernels.native.compiler import Compiler
from kernels.native.instruction_set import INSTRUCTION_SETS, InstructionSet
from kernels.native.recorder import CallRecorder

__all__ = ["EmulatedCompiler", "emulated_sets", "missing"]

GCC, QEMU = "aarch64-linux-gnu-gcc", "qemu-aarch64"
SYSROOT = "/usr/aarch64-linux-gnu"
INTEGERS = ctypes.c_void_p, ctypes.c_int64
NUM_INTS, NUM_FLOATS, MOST_BUFFERS, LINE = 24, 4, 24, 64  # as in server.c
# what -march=native would say on a CPU with what a set needs
FLAGS = {"neon_bf16": ("-march=armv8.6-a",)}


class _Call(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char * 64),
        ("ints", ctypes.c_int64 * NUM_INTS),
        ("buffer_of", ctypes.c_int64 * NUM_INTS),
        ("floats", ctypes.c_float * NUM_FLOATS),
        ("num_buffers", ctypes.c_int64),
        ("num_bytes", ctypes.c_int64 * MOST_BUFFERS),
        ("misaligned", ctypes.c_int64 * MOST_BUFFERS),
    ]


def missing() -> str:
    """Why arm64 is not emulated here; "" if it is."""
    if platform.machine() in ("aarch64", "arm64"):
        return "this machine is one"
    if os.environ.get("MANTA_CFLAGS"):
        return "MANTA_CFLAGS are for this machine's compiler"
    lacks = [name for name in (GCC, QEMU) if shutil.which(name) is None]
    return f"{' and '.join(lacks)} missing: apt-get install qemu-user {GCC.removesuffix('-gcc')}" if lacks else ""


def emulated_sets() -> Mapping[str, InstructionSet]:
    """The sets of arm64, where it is emulated."""
    if missing():
        return {}
    arm64 = [one for one in INSTRUCTION_SETS.values() if one.machine == "aarch64"]
    return {one.name: InstructionSet(one.name, one.machine, one.needs, FLAGS.get(one.name, one.flags)) for one in arm64}


class EmulatedCompiler:
    """Stands for a kernels.native.compiler.Compiler of this machine."""

    def __init__(self, compiler: Compiler, instructions: InstructionSet) -> None:
        self.instructions = instructions
        self.recorder = CallRecorder()
        self._compiler = compiler.for_instructions(instructions, GCC)

    def load(self, source: Path) -> "EmulatedLibrary":
        command = [QEMU, "-cpu", "max", "-L", SYSROOT, str(_server()), str(self._compiler.compile(source))]
        return EmulatedLibrary(command)


@functools.cache
def _server() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="manta-arm64-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    command = [GCC, "-O2", "-std=c11", str(Path(__file__).with_name("server.c")), "-o", str(folder / "server")]
    subprocess.run(command, check=True)
    return folder / "server"


class EmulatedLibrary:
    """A shared object in a process of its own, which starts at the first call and ends with this one."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def __getattr__(self, name: str) -> "EmulatedFunction":
        function = EmulatedFunction(name, self)
        setattr(self, name, function)
        return function

    def call(self, call: _Call, storages: Sequence[Any]) -> int:
        process = self._process or self._start()
        process.stdin.write(bytes(call))
        for storage in storages:
            process.stdin.write(ctypes.string_at(storage.data_ptr(), storage.nbytes()))
        process.stdin.flush()
        result = process.stdout.read(8)
        if len(result) < 8:
            raise RuntimeError(f"{call.name.decode()}: the emulated process ended with {process.wait()}")
        for storage in storages:
            ctypes.memmove(storage.data_ptr(), process.stdout.read(storage.nbytes()), storage.nbytes())
        return int.from_bytes(result, "little", signed=True)

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # of this machine
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, env=environment)
        atexit.register(_end, self._process)
        return self._process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


class EmulatedFunction:
    """Set argtypes before a call."""

    def __init__(self, name: str, library: EmulatedLibrary) -> None:
        self._name, self._library = name, library
        self.argtypes: Sequence[Any] = ()
        self.restype: Any = None

    def __call__(self, *args: Any) -> int:
        call = _Call(name=self._name.encode(), buffer_of=(ctypes.c_int64 * NUM_INTS)(*[-1] * NUM_INTS))
        kinds = list(zip(self.argtypes, args, strict=True))
        call.floats[:] = _padded([float(arg) for kind, arg in kinds if kind is ctypes.c_float], NUM_FLOATS)
        numbers = [(kind, int(arg or 0)) for kind, arg in kinds if kind in INTEGERS]
        storages = _storages([arg for kind, arg in numbers if kind is ctypes.c_void_p and arg])
        for n, (kind, arg) in enumerate(numbers):
            call.ints[n] = arg
            if kind is ctypes.c_void_p and arg:
                call.buffer_of[n], call.ints[n] = _place(arg, storages)
        call.num_buffers = len(storages)
        for b, storage in enumerate(storages):
            call.num_bytes[b], call.misaligned[b] = storage.nbytes(), storage.data_ptr() % LINE
        return self._library.call(call, storages)


def _padded(numbers: list[float], length: int) -> list[float]:
    return numbers + [0.0] * (length - len(numbers))


def _storages(pointers: Sequence[int]) -> list[Any]:
    """The memory of all tensors that somebody points into."""
    found: dict[int, Any] = {}
    for one in gc.get_objects() if pointers else ():
        if issubclass(type(one), torch.Tensor) and one.device.type == "cpu":
            storage = one.untyped_storage()
            start, stop = storage.data_ptr(), storage.data_ptr() + storage.nbytes()
            if any(start <= pointer < stop for pointer in pointers):
                found[start] = storage
    return list(found.values())


def _place(pointer: int, storages: Sequence[Any]) -> tuple[int, int]:
    for b, storage in enumerate(storages):
        if storage.data_ptr() <= pointer < storage.data_ptr() + storage.nbytes():
            return b, pointer - storage.data_ptr()
    raise ValueError("an argument points into no tensor")
