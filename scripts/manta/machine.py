"""Facts of this machine that decide how a model runs here: CPU, instruction sets, C compiler, GPUs, versions."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from kernels.native.instruction_set import find_instruction_set

__all__ = ["cpu_name", "facts", "gpus", "instruction_sets"]

# instruction sets with code in our kernels or their libraries, by their names in /proc/cpuinfo
USED = (
    ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16")
    + ("amx_tile", "amx_bf16", "amx_int8")
    + ("asimd", "asimddp", "bf16", "i8mm", "sve", "sve2")
)
PACKAGES = ("torch", "triton", "ray", "transformers", "msgspec", "llguidance")


def facts() -> Iterator[tuple[str, str]]:
    """(name, value), the most important first."""
    yield "manta", f"{_version('manta-serve') or 'a checkout'}, Python {platform.python_version()}"
    yield "CPU", f"{cpu_name()}, {os.cpu_count()} cores, {platform.machine()}"
    yield "instruction sets", " ".join(instruction_sets()) or "not known here"
    yield "CPU kernels", _kernels()
    yield "C compiler", _compiler()
    yield "GPU", ", ".join(gpus()) or "none"
    yield "versions", ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name)))
    if Path("/dev/shm").is_dir():
        yield "shared memory", f"{shutil.disk_usage('/dev/shm').free / 2**30:.1f} GiB free in /dev/shm"


def cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """The used instruction sets of this CPU. Empty without /proc/cpuinfo."""
    here = set(_cpuinfo("flags").split()) | set(_cpuinfo("Features").split())
    return [name for name in USED if name in here]


def gpus() -> list[str]:
    """The name of each NVIDIA GPU that the driver lists, without importing torch."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip().replace(",", ";") for line in done.stdout.splitlines() if line.strip()] * (not done.returncode)


def _kernels() -> str:
    """The set that kernels are compiled for, and why not a better one."""
    try:
        instructions, why = find_instruction_set(os.environ.get("MANTA_INSTRUCTION_SET"))
    except ValueError as error:
        return str(error)
    return f"{instructions.name} ({why})" if why else instructions.name


def _compiler() -> str:
    for name in ("gcc", "cc", "clang"):  # the order in which kernels/native/compiler.py looks
        if path := shutil.which(name):
            said = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
            return f"{path}, {said.splitlines()[0] if said else 'of an unknown version'}"
    return "none: CPU kernels are plain PyTorch, which is slower and not deterministic (Debian: apt-get install gcc)"


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
