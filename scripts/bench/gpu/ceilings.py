"""Ceilings of the device: memory bandwidth and FLOP/s, of which other numbers are given as shares, too."""

import torch

from scripts.bench.gpu.timing import measure

__all__ = ["ceilings"]


def ceilings(device: torch.device, tiny: bool) -> dict[str, float]:
    num_bytes = 1 << (20 if tiny else 31)
    source = torch.ones(num_bytes // 8, dtype=torch.int64, device=device)
    target = torch.empty_like(source)
    copy_us = measure([lambda: target.copy_(source)], device)["median_us"]
    size = 128 if tiny else 8192
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    product_us = measure([lambda: a @ b], device)["median_us"]
    return {
        "copy_gb_s": _significant(2 * num_bytes / copy_us / 1e3),
        "bf16_tflop_s": _significant(2 * size**3 / product_us / 1e6),
    }


def _significant(value: float) -> float:
    """Four digits: nothing is zero, others are divided by it."""
    return float(f"{value:.4g}")
