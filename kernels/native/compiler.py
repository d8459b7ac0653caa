"""Compiles a C file next to its kernel, once per source and CPU, and loads it."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["Compiler", "find_compiler"]

# no -ffast-math: sums keep the order in which they are written
FLAGS = ["-O3", "-std=c11", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"]
if sys.platform == "linux":  # elsewhere the system's compiler mostly has no OpenMP: one thread
    FLAGS.append("-fopenmp")


def find_compiler(cache_dir: Path | None = None) -> "Compiler | None":
    """The system's C compiler, or None. Shared objects go to `cache_dir`, by default one in the user's home."""
    for name in ("gcc", "cc", "clang"):
        if command := shutil.which(name):
            return Compiler(command, cache_dir or _cache_at_home() or Path(tempfile.mkdtemp(prefix="manta-kernels-")))
    return None


def _cache_at_home() -> Path | None:
    """None if this user has no home that can be written to."""
    try:
        folder = Path.home() / ".cache" / "manta" / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder if os.access(folder, os.W_OK) else None


class Compiler:
    """`march` is the CPU that is compiled for: this one, unless a test wants the code of a lesser one."""

    def __init__(self, command: str, cache_dir: Path, march: str = "native") -> None:
        self._command = command
        self._cache_dir = cache_dir
        self._flags = [*FLAGS, f"-march={march}"]

    def lesser(self, march: str) -> "Compiler":
        return Compiler(self._command, self._cache_dir, march)

    def load(self, source: Path) -> ctypes.CDLL:
        """The shared object of a C file. A compiler that fails is a RuntimeError with what it said."""
        headers = Path(__file__).parent
        key = hashlib.sha256("\0".join([self._command, *self._flags, _cpu()]).encode())
        for file in (source, *sorted(headers.glob("*.h"))):
            key.update(file.read_bytes())
        target = self._cache_dir / f"{source.parent.name}-{key.hexdigest()[:24]}.so"
        if not target.exists():
            self._compile(source, headers, target)
        return ctypes.CDLL(str(target))

    def _compile(self, source: Path, headers: Path, target: Path) -> None:
        self._cache_dir.mkdir(parents=True, exist_ok=True)
        # two processes may compile the same file: each writes its own, and the last rename wins
        with tempfile.TemporaryDirectory(dir=self._cache_dir) as scratch:
            made = Path(scratch) / target.name
            command = [self._command, *self._flags, f"-I{headers}", str(source), "-o", str(made), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
            os.replace(made, target)


def _cpu() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kinds)}))
