"""CPU instruction sets that the C kernels are compiled for: which this machine has, and why not a better one."""

import ctypes
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["INSTRUCTION_SETS", "InstructionSet", "cpu_flags", "find_instruction_set"]

ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 0x1023, 18
SYS_ARCH_PRCTL = 158  # on x86-64
NATIVE = ("-march=native",)
WITHOUT_AMX = ("-march=native", "-DNO_AMX")  # kernels/native/amx.h looks at it
OF_APPLE = {"asimddp": "DotProd", "bf16": "BF16", "i8mm": "I8MM"}  # Linux's names of CPU features and macOS's


@dataclass(frozen=True)
class InstructionSet:
    """needs  flags that the CPU must have, as Linux calls them
    flags  what the compiler is told
    """

    name: str
    machine: str  # as platform.machine() says
    needs: frozenset[str]
    flags: tuple[str, ...]

    def missing(self, flags: frozenset[str]) -> str:
        """Why a CPU with these flags cannot run it; "" if it can."""
        if lacks := sorted(self.needs - flags):
            return f"the CPU lacks {', '.join(lacks)}"
        if "amx_tile" in self.needs and not _permits_tiles():
            return "Linux refuses the tiles' state (arch_prctl ARCH_REQ_XCOMP_PERM)"
        return ""


def _sets() -> Mapping[str, InstructionSet]:
    avx2 = frozenset({"avx2", "fma", "f16c"})
    avx512 = avx2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
    avx512_bf16 = avx512 | {"avx512_bf16", "avx512_vnni"}
    amx = avx512_bf16 | {"amx_tile", "amx_bf16"}
    plain = frozenset[str]()
    every = (
        InstructionSet("amx", "x86_64", amx, NATIVE),
        InstructionSet("avx512_bf16", "x86_64", avx512_bf16, WITHOUT_AMX),
        InstructionSet("avx512_vnni", "x86_64", avx512 | {"avx512_vnni"}, ("-march=cascadelake",)),
        InstructionSet("avx512", "x86_64", avx512, ("-march=skylake-avx512",)),
        InstructionSet("avx_vnni", "x86_64", avx2 | {"avx_vnni"}, (*WITHOUT_AMX, "-mno-avx512f")),
        InstructionSet("avx2", "x86_64", avx2, ("-march=haswell",)),
        InstructionSet("x86-64", "x86_64", plain, ("-march=x86-64",)),
        InstructionSet("neon_bf16", "aarch64", frozenset({"bf16", "i8mm"}), NATIVE),
        InstructionSet("neon_dotprod", "aarch64", frozenset({"asimddp"}), ("-march=armv8.2-a+dotprod",)),
        InstructionSet("neon", "aarch64", plain, ("-march=armv8-a",)),
    )
    return {one.name: one for one in every}


INSTRUCTION_SETS = _sets()  # of each machine the best first


def find_instruction_set(requested: str | None = None) -> tuple[InstructionSet, str]:
    """The best set that this machine runs, or the `requested` one; and why it is not a better one, "" if there is none.

    Raises ValueError if the machine does not run the requested one, with the names of those that it runs.
    """
    machine = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    flags, ours = cpu_flags(), [one for one in INSTRUCTION_SETS.values() if one.machine == machine]
    missing = {one.name: one.missing(flags) for one in ours}
    runs = [one for one in ours if not missing[one.name]] or [InstructionSet("portable", machine, frozenset(), NATIVE)]
    if requested is not None:
        for one in runs:
            if one.name == requested:
                return one, "asked for"
        names = ", ".join(one.name for one in runs)
        why = missing.get(requested) or f"it is none of a {machine}"
        raise ValueError(f"instruction set {requested!r} cannot be used: {why}; this machine runs: {names}")
    better = ours[: ours.index(runs[0])] if runs[0] in ours else ours
    return runs[0], "; ".join(f"{one.name}: {missing[one.name]}" for one in better)


def cpu_flags() -> frozenset[str]:
    """What the CPU can do, in Linux's names; nothing where /proc/cpuinfo does not exist but macOS on arm64."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        words = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
        return frozenset(words.split())
    if sys.platform == "darwin":
        return frozenset(name for name, feature in OF_APPLE.items() if _sysctl(f"hw.optional.arm.FEAT_{feature}"))
    return frozenset()


def _permits_tiles() -> bool:
    """Asks Linux for the tiles' state; once granted, all threads of the process have it."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).syscall(SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0)


def _sysctl(name: str) -> bool:
    value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    failed = ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    return not failed and value.value == 1
