"""Compiles a Triton kernel for Hopper where there is none, and looks at what came out."""

import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

__all__ = ["compile_hopper"]


def compile_hopper(kernel, types, constants, launch):
    """Registers and stack of a thread, shared memory of a program, and how often what matters stands in the code.

    types      of all other arguments, as in "*bf16" or "i32"; pointers are taken to be multiples of 16
    constants  of tl.constexpr arguments
    launch     more of those, num_warps and num_stages
    """
    options = {name: launch[name] for name in ("num_warps", "num_stages")}
    constants = {**constants, **{name: value for name, value in launch.items() if name not in options}}
    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if signature[name].startswith("*")
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    usage, code = _dump(compiled.asm["cubin"])
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()

    def count(instruction):
        return len(re.findall(rf"\b{instruction}", code))

    return {
        "registers": int(registers),
        "stack": int(stack),
        "spills": count("STL"),
        "shared": compiled.metadata.shared,
        "wgmma": count("HGMMA"),
        "mma": count("HMMA"),
        "async": count("LDGSTS") + count("UTMALDG"),
    }


def _dump(cubin):
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return [
            subprocess.run([tool, what, file.name], capture_output=True, text=True, check=True).stdout
            for what in ("--dump-resource-usage", "--dump-sass")
        ]
