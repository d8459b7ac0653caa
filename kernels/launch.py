"""How a Triton kernel is launched on a device: what was measured there, else what the kernel's author wrote down."""

import functools
import json
import logging
import os
import tempfile
from pathlib import Path

import torch

__all__ = ["Table", "measured", "prepare_cache", "table_name"]

log = logging.getLogger(__name__)


class Table(dict[str, dict[str, int]]):
    """Maps what a kernel calls a case to meta-parameters, num_warps and num_stages.

    It remembers for which cases it was asked: scripts/bench/gpu/tune.py tries other parameters for those.
    """

    def __init__(self, entries: dict[str, dict[str, int]]) -> None:
        super().__init__(entries)
        self.asked: set[str] = set()

    def get(self, case: str, default: dict[str, int]) -> dict[str, int]:  # type: ignore[override]
        self.asked.add(case)
        return super().get(case, default)


@functools.cache
def measured(module_file: str, device: torch.device) -> Table:
    """Reads a table beside a kernel's module; empty where nothing was measured on such a device with this Triton."""
    path = Path(module_file).parent / "tables" / table_name(device)
    return Table(json.loads(path.read_text()) if path.exists() else {})


def table_name(device: torch.device) -> str:
    """As in nvidia-h100-80gb-hbm3_triton-3.6.json: releases of Triton make other machine code of the same kernel."""
    import triton

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name.lower().replace(' ', '-')}_triton-{'.'.join(triton.__version__.split('.')[:2])}.json"


def prepare_cache() -> None:
    """Triton keeps what it compiled in the user's home. Where it cannot, it would raise at the first launch."""
    from triton import knobs

    folder = Path(knobs.cache.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return
    except OSError:
        pass
    knobs.cache.dir = tempfile.mkdtemp(prefix="manta-triton-")
    log.warning("%s cannot be written to: kernels are compiled anew at each start (TRITON_CACHE_DIR)", folder)
