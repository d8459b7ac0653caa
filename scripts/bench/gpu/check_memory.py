"""Correctness of KV offload between GPU and host, and of dequantized weights."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from engine.cache.cache_layout import CacheLayout
from engine.cache.host_tier import WAYS, HostTier
from engine.cache.kv_cache import KVCache
from engine.cache.kv_offload import offloading_connector_of
from engine.checkpoint.dequantize import dequantize_float8, dequantize_mxfp4
from scripts.bench.gpu.random_model import LLAMA_8B, TINY
from scripts.bench.gpu.units import Row, Unit, unit

__all__ = ["check_memory"]


def check_memory(device: torch.device, tiny: bool) -> Iterator[Unit]:
    yield unit(_offload, device, tiny)
    yield unit(_dequantized, device, tiny)


def _offload(device: torch.device, tiny: bool) -> Row:
    """Blocks that are overwritten as soon as they were given away, and read into others while a product is computed."""
    arch, count = (TINY, 5) if tiny else (LLAMA_8B, 100)
    kv = KVCache(CacheLayout.of(arch, 16), 2 * count, torch.bfloat16, device)
    block_bytes = kv.blocks.num_bytes
    for block in range(count):
        kv.block(block).normal_()
    expected = [kv.block(block).clone() for block in range(count)]
    busy = torch.randn((64, 64) if tiny else (8192, 8192), device=device).bfloat16()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        room = max(4 * count, 16 * WAYS) * block_bytes  # so much that no set of ways is full
        cache = offloading_connector_of(kv.blocks, HostTier("check", block_bytes, room, Path(folder)))
        began_s = time.perf_counter()
        for block in range(count):
            busy @ busy
            cache.save(block.to_bytes(16, "little"), block)
            kv.block(block).zero_()  # the next step's
        queued_s = time.perf_counter() - began_s
        while not all(cache.holds(block.to_bytes(16, "little")) for block in range(count)):
            time.sleep(0.001)
            if time.perf_counter() - began_s > 20:
                break
        kept_s = time.perf_counter() - began_s
        began_s = time.perf_counter()
        found = [cache.load(block.to_bytes(16, "little"), count + block) for block in range(count)]
        same = all(found) and all(torch.equal(kv.block(count + at), one) for at, one in enumerate(expected))
        loaded_s = time.perf_counter() - began_s
        cache.close()
    return {
        "name": "KV offload",
        "shape": f"{count} blocks of {block_bytes} bytes",
        "queued_ms": round(queued_s * 1000, 2),
        "kept_ms": round(kept_s * 1000, 2),
        "loaded_ms": round(loaded_s * 1000, 2),
        "ok": same,
    }


def _dequantized(device: torch.device, tiny: bool) -> Iterator[Row]:
    """Bit by bit what a CPU makes of them."""
    num_out, num_groups = (40, 4) if tiny else (5760, 90)
    blocks = torch.randint(256, (num_out, num_groups, 16), dtype=torch.uint8)
    scales = torch.randint(100, 150, (num_out, num_groups), dtype=torch.uint8)
    expected = dequantize_mxfp4(blocks, scales)
    there = blocks.to(device), scales.to(device)
    dequantize_mxfp4(*there)
    began_s = time.perf_counter()
    out = dequantize_mxfp4(*there).cpu()
    took_ms = round((time.perf_counter() - began_s) * 1000, 2)
    shape = f"{num_out} x {32 * num_groups}"
    yield {"name": "dequantize MXFP4", "shape": shape, "took_ms": took_ms, "ok": torch.equal(out, expected)}
    weight = torch.randn((num_out, 32 * num_groups)).to(torch.float8_e4m3fn)
    for name, scale in {
        "one scale": torch.tensor(0.3),
        "a scale a row": torch.rand(num_out, 1),
        "blocks of 128": torch.rand(-(-num_out // 128), -(-32 * num_groups // 128)),
    }.items():
        expected = dequantize_float8(weight, scale, torch.bfloat16)
        out = dequantize_float8(weight.to(device), scale.to(device), torch.bfloat16).cpu()
        yield {"name": "dequantize float8", "shape": f"{shape}, {name}", "ok": torch.equal(out, expected)}
