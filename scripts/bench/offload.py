"""KV offload: the time to write a KV block to the host tier and to read it: python -m scripts.bench.offload.

The baseline, in the same run over the same bytes, is the file mapped into memory: faster once all pages are touched,
but truncating the file ends the process. Prints the median and the 99th percentile in us.
"""

import json
import mmap
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from engine.cache.host_tier import WAYS, HostTier
from scripts.bench.record import describe, percentiles

COUNT = 64
SHAPES = {"64 KB": (4, 2, 16, 128), "2 MB": (32, 8, 16, 128)}  # layers, KV heads, slots, dim; bfloat16


def main() -> None:
    torch.set_num_threads(1)
    shm = "/dev/shm" if Path("/dev/shm").is_dir() else None
    found = {}
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory(dir=shm) as folder:
            found[name] = {"read and written": _host_tier(shape, Path(folder)), "mapped": _mapped(shape, Path(folder))}
    print(json.dumps({**describe(), "us": found}, indent=1))


def _blocks(shape: tuple[int, int, int, int]) -> torch.Tensor:
    """[L * 2, N, bytes], as a KVCache has them."""
    num_layers, num_heads, num_slots, dim = shape
    return torch.ones((2 * num_layers, COUNT, num_heads * num_slots * dim * 2), dtype=torch.uint8)


def _host_tier(shape: tuple[int, int, int, int], folder: Path) -> dict[str, dict[str, float]]:
    blocks = _blocks(shape).numpy()
    size = blocks[:, 0].size
    host_tier = HostTier("bench", size, 4 * WAYS * COUNT * size, folder)  # so much that nothing is evicted
    names = [number.to_bytes(8, "little") * 2 for number in range(COUNT)]
    try:
        return {
            "first write": _timed(lambda at: host_tier.write(names[at], list(blocks[:, at]))),
            "read": _timed(lambda at: host_tier.read(names[at], list(blocks[:, at]))),
            "look": _timed(lambda at: host_tier.holds(names[at])),
        }
    finally:
        host_tier.close()


def _mapped(shape: tuple[int, int, int, int], folder: Path) -> dict[str, dict[str, float]]:
    blocks = _blocks(shape)
    size = blocks[:, 0].numel()
    with (folder / "mapped").open("w+b") as file:
        os.truncate(file.fileno(), COUNT * size)
        memory = mmap.mmap(file.fileno(), COUNT * size)
        there = torch.frombuffer(memory, dtype=torch.uint8).view(COUNT, *blocks[:, 0].shape)

        def write(at: int) -> bool:
            there[at].copy_(blocks[:, at])
            return True

        def read(at: int) -> bool:
            blocks[:, at].copy_(there[at])
            return True

        return {"first write": _timed(write), "write again": _timed(write), "read": _timed(read)}


def _timed(call: Callable[[int], bool]) -> dict[str, float]:
    times = []
    for at in range(COUNT):
        began_s = time.perf_counter()
        assert call(at)
        times.append(time.perf_counter() - began_s)
    return percentiles(times, 1e6)


if __name__ == "__main__":
    main()
