"""A compiler for each instruction set for which the C kernels are tried: all that this machine runs, AMX and AVX-VNNI
emulated in C, and those of arm64 emulated by qemu-user where it is installed.
"""

from typing import Any

from kernels.native.compiler import Compiler, find_compiler
from kernels.native.instruction_set import INSTRUCTION_SETS, InstructionSet, cpu_flags, find_instruction_set
from tests.kernels.arm64.emulator import EmulatedCompiler, emulated_sets

__all__ = ["COMPILERS", "EMULATED"]

# small blocks, so that few keys and inputs already need several
EMULATED_AMX = ("-DEMULATED_AMX", "-DKEYS_AT_ONCE=64", "-DSTEPS_AT_ONCE=2")


def _sets() -> dict[str, InstructionSet]:
    best, _ = find_instruction_set()
    sets = {one.name: one for one in INSTRUCTION_SETS.values() if one.machine == best.machine}
    runs = {name: one for name, one in sets.items() if not one.missing(cpu_flags())}
    runs |= {best.name: best}
    runs["emulated_amx"] = InstructionSet("emulated_amx", best.machine, best.needs, (*best.flags, *EMULATED_AMX))
    if avx2 := runs.get("avx2"):
        runs["emulated_vnni"] = InstructionSet(
            "emulated_vnni", best.machine, best.needs, (*avx2.flags, "-DEMULATED_VNNI")
        )
    return runs


def _compilers(compiler: Compiler | None) -> dict[str, Any]:
    if compiler is None:
        return {}
    here = {name: compiler.for_instructions(one) for name, one in _sets().items()}
    return here | {name: EmulatedCompiler(compiler, one) for name, one in emulated_sets().items()}


COMPILERS = _compilers(find_compiler())
EMULATED = emulated_sets()  # by qemu-user: some hundred times slower
