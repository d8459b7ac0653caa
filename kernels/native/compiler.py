"""Compiles a C file next to its kernel, once per source and CPU, and loads it."""

import atexit
import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kernels.native.instruction_set import InstructionSet, find_instruction_set
from kernels.native.private import NotPrivateError, check_file, make_folder
from kernels.native.recorder import CallRecorder, NativeLibrary

__all__ = ["Compiler", "find_compiler"]

log = logging.getLogger(__name__)

# no -ffast-math: sums keep the order in which they are written
FLAGS = ["-O3", "-std=c11", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"]
if sys.platform == "linux":  # elsewhere the system's compiler mostly has no OpenMP: one thread
    FLAGS.append("-fopenmp")


def find_compiler(cache_dir: Path | None = None) -> "Compiler | None":
    """The system's C compiler for the best instruction set of this machine, or None. Shared objects go to `cache_dir`,
    by default one in the user's home. MANTA_INSTRUCTION_SET chooses another set: ValueError if it cannot be run.

    What lies there is run: NotPrivateError if others can write to `cache_dir`.
    """
    flags = shlex.split(os.environ.get("MANTA_CFLAGS", ""))
    for name in ("gcc", "cc", "clang"):
        if command := shutil.which(name):
            folder = make_folder(cache_dir) if cache_dir else _default_folder()
            instructions, why = find_instruction_set(os.environ.get("MANTA_INSTRUCTION_SET"))
            log.info("C kernels are compiled for %s%s", instructions.name, f" ({why})" if why else "")
            return Compiler(command, folder, instructions, flags)
    return None


def _default_folder() -> Path:
    home = None
    with contextlib.suppress(RuntimeError):  # this user has no home
        home = Path.home()
    return _folder_of(home, Path(tempfile.gettempdir()))


@functools.cache
def _folder_of(home: Path | None, temporary: Path) -> Path:
    """In the home if it can be written to, and by nobody else, else elsewhere, at worst for this process alone."""
    wanted = [home / ".cache" / "manta" / "kernels"] if home else []
    wanted.append(temporary / f"manta-kernels-{os.geteuid()}")
    for folder in wanted:
        try:
            real = make_folder(folder)
        except OSError:
            continue
        except NotPrivateError as error:
            log.warning("compiled kernels are not kept in %s: %s", folder, error)
            continue
        if os.access(real, os.W_OK):
            return real
    folder = Path(tempfile.mkdtemp(prefix="manta-kernels-", dir=temporary))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Compiler:
    """For one instruction set. `flags` (by default those of MANTA_CFLAGS) come last: what they say wins."""

    def __init__(self, command: str, cache_dir: Path, instructions: InstructionSet, flags: Sequence[str] = ()) -> None:
        self.instructions = instructions
        self.recorder = CallRecorder()  # of all that is loaded
        self._command = command
        self._cache_dir = cache_dir
        self._extra_flags = tuple(flags)
        self._flags = [*FLAGS, *instructions.flags, *flags]

    def for_instructions(self, instructions: InstructionSet, command: str | None = None) -> "Compiler":
        """`command` is another machine's compiler, which does not get this one's extra flags."""
        flags = () if command else self._extra_flags
        return Compiler(command or self._command, self._cache_dir, instructions, flags)

    def load(self, source: Path) -> NativeLibrary:
        """The shared object of a C file. A compiler that fails is a RuntimeError with what it said."""
        return NativeLibrary(ctypes.CDLL(str(self.compile(source))), self.recorder)

    def compile(self, source: Path) -> Path:
        """Where the shared object of a C file lies. A compiler that fails is a RuntimeError with what it said."""
        headers = Path(__file__).parent
        key = hashlib.sha256("\0".join([self._command, *self._flags, _cpu()]).encode())
        for file in (source, *sorted(source.parent.glob("*.h")), *sorted(headers.glob("*.h"))):
            key.update(file.read_bytes())
        target = self._cache_dir / f"{source.parent.name}-{key.hexdigest()[:24]}.so"
        if not _is_ours(target):
            self._compile(source, headers, target)
        return target

    def _compile(self, source: Path, headers: Path, target: Path) -> None:
        # two processes may compile the same file: each writes its own, and the last rename wins
        with tempfile.TemporaryDirectory(dir=self._cache_dir) as scratch:
            made = Path(scratch) / target.name
            command = [self._command, *self._flags, f"-I{headers}", str(source), "-o", str(made), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
            made.chmod(0o700)  # whatever the umask is
            os.replace(made, target)


def _is_ours(target: Path) -> bool:
    """It was compiled before, and nobody else can have written to it since."""
    try:
        check_file(target, target.lstat())
    except FileNotFoundError:
        return False
    except NotPrivateError as error:
        log.warning("a kernel is compiled again: %s", error)
        return False
    return True


def _cpu() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kinds)}))
