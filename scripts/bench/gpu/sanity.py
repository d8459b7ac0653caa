"""Sanity check of the machine, before anything else: versions and tools, one kernel, the ceilings of the device."""

import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from kernels.kernel_set import KernelSet
from kernels.rms_norm import reference
from scripts.bench.gpu.ceilings import ceilings
from scripts.bench.gpu.units import Row, Unit, unit

__all__ = ["sanity"]

TOOLS = "gcc", "cc", "git", "nvcc", "ncu", "compute-sanitizer", "nvidia-smi"


def sanity(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[Unit]:
    yield unit(_tools)
    yield unit(_first_launch, kernels, device)
    yield unit(_ceilings, device, tiny)


def _tools() -> Row:
    """Triton compiles a launcher of each kernel with a C compiler and Python's headers."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    row = {"name": "tools", "missing": missing, "python_headers": header.exists()}
    if shutil.which("nvidia-smi"):
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20)
        row["nvidia_smi"] = done.stdout.splitlines()[:16]
    return row


def _first_launch(kernels: KernelSet, device: torch.device) -> Row:
    """Compiled, launched, and right."""
    began_s = time.perf_counter()
    x, residual = (torch.randn((3, 4096), device=device) for _ in range(2))
    weight = torch.rand(4096, device=device)
    expected = reference.add_rms_norm(x, residual.clone(), weight, 1e-5)
    out = kernels.add_rms_norm(x, residual, weight, 1e-5)
    error = ((out - expected).norm() / expected.norm()).item()
    return {"name": "first launch", "s": round(time.perf_counter() - began_s, 2), "error": error, "ok": error < 1e-5}


def _ceilings(device: torch.device, tiny: bool) -> Row:
    return {"name": "ceilings", **ceilings(device, tiny)}
