"""Where a step's time goes, by kernel: torch's profiler, which sees into replayed CUDA graphs."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["kernel_times"]

MOST_KERNELS = 40


def kernel_times(step: Callable[[], object], num_steps: int, device: torch.device) -> dict[str, Any]:
    """Per step: `wall_us`, the device's `busy_us`, and of each kernel [name, calls, us], the longest first.

    On a CPU the operators take the place of kernels.
    """
    is_gpu = device.type == "cuda"
    activity = torch.profiler.ProfilerActivity.CUDA if is_gpu else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profiler:
        if is_gpu:
            torch.cuda.synchronize(device)
        began_s = time.perf_counter()
        for _ in range(num_steps):
            step()
        if is_gpu:
            torch.cuda.synchronize(device)
        wall_us = (time.perf_counter() - began_s) * 1e6
    times: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for event in profiler.key_averages():
        us = event.self_device_time_total if is_gpu else event.self_cpu_time_total
        if us:
            times[event.key[:90]][0] += event.count
            times[event.key[:90]][1] += us
    ordered = sorted(times.items(), key=lambda item: -item[1][1])
    return {
        "wall_us": round(wall_us / num_steps, 1),
        "busy_us": round(sum(us for _, us in times.values()) / num_steps, 1),
        "kernels": [
            [name, round(count / num_steps, 2), round(us / num_steps, 2)]
            for name, (count, us) in ordered[:MOST_KERNELS]
        ],
    }
