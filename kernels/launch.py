"""How a Triton kernel is launched on a device: what was measured there, else what the kernel's author wrote down."""

import functools
import json
from pathlib import Path

import torch

__all__ = ["measured"]


@functools.cache
def measured(module_file: str, device: torch.device) -> dict[str, dict[str, int]]:
    """Reads tables/<device>.json beside a kernel's module; empty where nothing was measured on such a device.

    A table maps what the kernel calls a case to meta-parameters, num_warps and num_stages. The device's name is
    written as in nvidia-h100-80gb-hbm3.json.
    """
    if device.type != "cuda":
        return {}
    name = torch.cuda.get_device_name(device).lower().replace(" ", "-")
    path = Path(module_file).parent / "tables" / f"{name}.json"
    if not path.exists():
        return {}
    table: dict[str, dict[str, int]] = json.loads(path.read_text())
    return table
