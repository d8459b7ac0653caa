"""python -m tests.aot.record: compiles everything for Hopper and writes scripts/bench/results/aot_sm90.json."""

import json
from pathlib import Path

import triton

from tests.aot.hopper import compile_hopper
from tests.aot.shipped import shipped

if __name__ == "__main__":
    rows = {case: compile_hopper(*what) for case, what in shipped().items()}
    lines = ",\n".join(f"  {json.dumps(case)}: {json.dumps(row)}" for case, row in rows.items())
    lines = f'{{\n"triton": "{triton.__version__}",\n"kernels": {{\n{lines}\n}}}}\n'
    (Path(__file__).parents[2] / "scripts/bench/results/aot_sm90.json").write_text(lines)
