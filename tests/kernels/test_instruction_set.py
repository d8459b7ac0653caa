import platform
import shutil

import pytest

from kernels.native import instruction_set
from kernels.native.compiler import find_compiler
from kernels.native.instruction_set import INSTRUCTION_SETS, find_instruction_set

AMX = INSTRUCTION_SETS["amx"]
# what the flags of some CPUs have of those that are looked at
CPUS = {
    "Sapphire Rapids": ("x86_64", AMX.needs, "amx"),
    "Zen 4": ("x86_64", INSTRUCTION_SETS["avx512_bf16"].needs, "avx512_bf16"),
    "Skylake-X": ("x86_64", INSTRUCTION_SETS["avx512"].needs, "avx512"),
    "Ice Lake": ("x86_64", INSTRUCTION_SETS["avx512_vnni"].needs, "avx512_vnni"),
    "Alder Lake": ("x86_64", frozenset({"avx2", "fma", "f16c", "avx_vnni"}), "avx_vnni"),
    "Zen 3": ("x86_64", frozenset({"avx2", "fma", "f16c"}), "avx2"),
    "Nehalem": ("x86_64", frozenset({"sse4_2"}), "x86-64"),
    "Graviton 3": ("aarch64", frozenset({"asimd", "bf16", "i8mm"}), "neon_bf16"),
    "Apple M1": ("arm64", frozenset({"asimddp"}), "neon_dotprod"),
    "Cortex-A72": ("aarch64", frozenset({"asimd"}), "neon"),
    "POWER9": ("ppc64le", frozenset[str](), "portable"),
}


def on(monkeypatch, machine, flags, permits=True):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(instruction_set, "cpu_flags", lambda: flags)
    monkeypatch.setattr(instruction_set, "_permits_tiles", lambda: permits)


@pytest.mark.parametrize("cpu", CPUS)
def test_each_cpu_has_its_best_set(monkeypatch, cpu):
    machine, flags, best = CPUS[cpu]
    on(monkeypatch, machine, flags)
    found, why = find_instruction_set()
    assert found.name == best
    assert (why == "") == (best in ("amx", "neon_bf16", "portable"))


def test_tiles_that_linux_refuses_are_not_used_and_it_says_so(monkeypatch):
    on(monkeypatch, "x86_64", AMX.needs, permits=False)
    found, why = find_instruction_set()
    assert found.name == "avx512_bf16" and "amx: Linux refuses" in why
    with pytest.raises(
        ValueError, match="'amx' cannot be used: Linux refuses.*this machine runs: avx512_bf16, avx512_vnni"
    ):
        find_instruction_set("amx")


def test_a_lesser_set_can_be_asked_for(monkeypatch):
    on(monkeypatch, "x86_64", AMX.needs)
    assert find_instruction_set("avx2")[0].name == "avx2"
    with pytest.raises(ValueError, match="'neon' cannot be used: it is none of a x86_64"):
        find_instruction_set("neon")
    on(monkeypatch, "x86_64", CPUS["Zen 3"][1])
    with pytest.raises(ValueError, match="lacks amx_bf16, amx_tile, avx512_bf16"):
        find_instruction_set("amx")


def test_the_environment_chooses_what_is_compiled(monkeypatch, tmp_path):
    worst = [one for one in INSTRUCTION_SETS.values() if not one.needs and one.machine == platform.machine()]
    for one in worst:
        monkeypatch.setenv("MANTA_INSTRUCTION_SET", one.name)
        compiler = find_compiler(tmp_path)
        assert compiler is None or compiler.instructions == one
    monkeypatch.setenv("MANTA_INSTRUCTION_SET", "mmx")
    if shutil.which("gcc"):
        with pytest.raises(ValueError, match="this machine runs: "):
            find_compiler(tmp_path)
