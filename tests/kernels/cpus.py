"""The sets of instructions for which the compiled kernels are tried: this CPU's own and the lesser ones it has."""

import platform
from pathlib import Path

__all__ = ["CPUS"]

# what gcc and clang call a CPU -> what it has that the one before it lacks
LESSER = {"x86-64": set[str](), "haswell": {"avx2", "fma"}, "skylake-avx512": {"avx512f", "avx512bw", "avx512vl"}}


def _lesser() -> list[str]:
    if platform.machine() != "x86_64":
        return []
    cpuinfo = Path("/proc/cpuinfo")  # elsewhere only what every such CPU has is known to be there
    has = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return [cpu for cpu, needs in LESSER.items() if needs <= has]


CPUS = ["native", *_lesser()]
