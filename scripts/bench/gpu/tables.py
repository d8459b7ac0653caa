"""Launch parameters that were measured on a card: into one file there, from it into the tree here.

    python -m scripts.bench.gpu.tables DIR/tables.json

writes kernels/<op>/tables/<device>_triton-<version>.json, which kernels/launch.py reads. Known cases that the file does
not have stay as they are.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from kernels.launch import table_name

__all__ = ["add_config", "spread"]

KERNELS = Path(__file__).parents[3] / "kernels"


def add_config(path: Path, module: str, case: str, config: dict[str, int] | None, device: torch.device) -> None:
    """Adds a case's parameters, or with None takes it out. `module` is a kernel's, as in paged_attention.triton."""
    known = json.loads(path.read_text()) if path.exists() else {}
    found = known.setdefault(table_name(device), {}).setdefault(module, {})
    found.pop(case, None)
    if config is not None:
        found[case] = config
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def spread(path: Path, kernels: Path = KERNELS) -> list[Path]:
    """Returns the tables that it wrote."""
    tables: dict[str, dict[str, dict[str, Any]]] = json.loads(path.read_text())
    written = []
    for name, modules in tables.items():
        for module, cases in modules.items():
            if not cases:
                continue
            table = kernels / module.partition(".")[0] / "tables" / name
            known = {**(json.loads(table.read_text()) if table.exists() else {}), **cases}
            table.parent.mkdir(parents=True, exist_ok=True)
            lines = ",\n".join(f" {json.dumps(case)}: {json.dumps(known[case])}" for case in sorted(known))
            table.write_text(f"{{\n{lines}\n}}\n")
            written.append(table)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    for table in spread(parser.parse_args().file):
        print(table)


if __name__ == "__main__":
    main()
