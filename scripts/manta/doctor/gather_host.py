"""Gathers the facts of the host: Python, packages, CPU, compiler, GPUs, memory, disk, limits, clock."""

import importlib.util
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from kernels.native.instruction_set import find_instruction_set
from scripts.environment import ROOT
from scripts.manta.doctor.facts import Clock, Compiler, Folder, Gpus, Host, Package
from scripts.manta.machine import cpu_name, gpus

__all__ = ["host_facts"]

NVIDIA, DISPLAY_CLASS = "0x10de", "0x03"
PROBE = "#include <math.h>\n#include <omp.h>\nint threads(void) { return omp_get_max_threads(); }\n"
PROBE_TIMEOUT_S = 60.0
CLOCK_PROBE_S = 0.02
TORCH_PROBE = "import torch; print(torch.cuda.device_count(), torch.version.cuda or '')"


def host_facts(hub: Path, temp: Path) -> Host:
    """`hub` and `temp` are the folders of downloaded models, and of Ray."""
    kernels, why = _kernels()
    total, available = _memory()
    return Host(
        python=sys.version_info[:3],
        packages=tuple(_packages(_requirements())),
        cpu=f"{cpu_name()}, {os.cpu_count()} cores",
        kernels=kernels,
        why_not_better=why,
        compiler=_compiler(),
        gpus=_gpus(),
        shm=_folder("shared memory", Path("/dev/shm")) if Path("/dev/shm").is_dir() else None,
        open_files=_open_files(),
        available_bytes=available,
        total_bytes=total,
        folders=(
            _folder("temp files", temp),
            _folder("downloaded models", hub),
            _folder("packed weights", Path("~/.cache/manta/weights").expanduser()),
            _folder("compiled kernels", Path("~/.cache/manta/kernels").expanduser()),
        ),
        clock=_clock(),
    )


def _requirements() -> list[str]:
    """Of a clone its pyproject.toml, else what was installed."""
    project = ROOT / "pyproject.toml"
    if project.exists():
        return list(tomllib.loads(project.read_text())["project"]["dependencies"])
    return metadata.requires("manta-serve") or []


def _packages(requirements: Sequence[str]) -> list[Package]:
    found = []
    for one in map(Requirement, requirements):
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            installed = None
        found.append(Package(name=one.name, installed=installed, wanted=str(one.specifier)))
    return found


def _kernels() -> tuple[str, str]:
    try:
        instructions, why = find_instruction_set(os.environ.get("MANTA_INSTRUCTION_SET"))
    except ValueError as error:
        return "", str(error)
    return instructions.name, why


def _compiler() -> Compiler | None:
    """The compiler that kernels/native/compiler.py takes, and whether it compiles."""
    path = next((path for name in ("gcc", "cc", "clang") if (path := shutil.which(name))), None)
    if path is None:
        return None
    flags = ["-fopenmp"] if sys.platform == "linux" else []
    probe = PROBE if flags else "#include <math.h>\nint threads(void) { return 1; }\n"
    try:
        with tempfile.TemporaryDirectory(prefix="manta-doctor-") as folder:
            command = [path, "-x", "c", "-", "-shared", "-fPIC", *flags, "-o", f"{folder}/probe.so"]
            done = subprocess.run(command, input=probe, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Compiler(path=path, error=str(error))
    lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no reason"]
    return Compiler(path=path, error=lines[0][:200] if done.returncode else "")


def _gpus() -> Gpus:
    """torch is loaded only where the driver lists a GPU, and in a process of its own."""
    listed, on_bus = tuple(gpus()), _num_on_bus()
    if not listed or importlib.util.find_spec("torch") is None:
        return Gpus(num_devices=on_bus, listed=listed)
    seen, build = _ask_torch()
    memory = min((_mebibytes(line) for line in listed), default=0) << 20
    return Gpus(num_devices=on_bus, listed=listed, memory_bytes=memory, seen_by_torch=seen, torch_build=build)


def _ask_torch() -> tuple[int | None, str]:
    command = [sys.executable, "-c", TORCH_PROBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S)
        count, _, build = done.stdout.strip().partition(" ")
        return int(count), build
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None, ""


def _mebibytes(line: str) -> int:
    """Of "NVIDIA H100; 81559 MiB; 550.54"."""
    words = line.split()
    return next((int(words[at - 1]) for at, word in enumerate(words) if at and word.startswith("MiB")), 0)


def _num_on_bus(devices: Path = Path("/sys/bus/pci/devices")) -> int:
    if not devices.is_dir():
        return 0
    return sum(
        _line(one / "vendor") == NVIDIA and _line(one / "class").startswith(DISPLAY_CLASS) for one in devices.iterdir()
    )


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _memory() -> tuple[int | None, int | None]:
    """Total and available bytes, within the container's limit if there is one."""
    table = {}
    for line in _line(Path("/proc/meminfo")).splitlines():
        name, _, value = line.partition(":")
        table[name] = int(value.split()[0]) << 10
    if "MemTotal" not in table:
        return None, None
    total, available = table["MemTotal"], table.get("MemAvailable", table["MemTotal"])
    limit, used = (_line(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit.isdecimal() and used.isdecimal():
        total = min(total, int(limit))
        available = min(available, max(0, int(limit) - int(used)))
    return total, available


def _open_files() -> tuple[int, int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return tuple(-1 if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))  # type: ignore[return-value]


def _folder(purpose: str, path: Path) -> Folder:
    """The folder, or where it would be made: the nearest one that exists."""
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    usage = shutil.disk_usage(there)
    is_writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    return Folder(
        purpose=purpose, path=str(path), is_writable=is_writable, free_bytes=usage.free, total_bytes=usage.total
    )


def _clock() -> Clock:
    wall_s, monotonic_s = time.time(), time.monotonic()
    time.sleep(CLOCK_PROBE_S)
    return Clock(
        wall_s=wall_s,
        newest_file_s=Path(__file__).stat().st_mtime,
        wall_step_s=time.time() - wall_s,
        monotonic_step_s=time.monotonic() - monotonic_s,
    )
