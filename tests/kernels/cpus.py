"""The instruction sets for which the compiled kernels are tried: all that this machine runs, and AMX emulated."""

from kernels.native.instruction_set import INSTRUCTION_SETS, InstructionSet, cpu_flags, find_instruction_set

__all__ = ["SETS"]

# small blocks, so that few keys and inputs already need several
EMULATED = ("-DEMULATED_AMX", "-DKEYS_AT_ONCE=64", "-DSTEPS_AT_ONCE=2")


def _sets() -> dict[str, InstructionSet]:
    best, _ = find_instruction_set()
    sets = {one.name: one for one in INSTRUCTION_SETS.values() if one.machine == best.machine}
    runs = {name: one for name, one in sets.items() if not one.missing(cpu_flags())}
    emulated = InstructionSet("emulated_amx", best.machine, best.needs, (*best.flags, *EMULATED))
    return {**runs, best.name: best, emulated.name: emulated}


SETS = _sets()
