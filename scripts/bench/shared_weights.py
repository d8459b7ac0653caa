"""Start and memory of two engines on one CPU node, with packed weights of their own and with shared ones.

    OMP_NUM_THREADS=1 python -m scripts.bench.shared_weights

Engines are processes of one thread and 200 KV blocks. `load_s` is from the config to the loaded model, without Python's
imports; memory is the proportional set size (PSS), where a page that two processes map counts half for each, while both
run, and the part of it that is anonymous, so never shared.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from configs.schema import CacheConfig, EngineConfig, ModelConfig
from engine.execution.load import load_executor
from scripts.bench.engine import SMOLLM2
from scripts.bench.record import print_json

__all__ = ["main"]

NUM_STARTS = 2  # engines at the same time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SMOLLM2, help="any model source")
    model = parser.parse_args().model
    with tempfile.TemporaryDirectory(prefix="manta-home-") as home:
        os.environ["HOME"] = home  # whose weight cache is empty
        _start(model, 0)  # compiles the kernels
        rows = [
            {"weights": name, "engine": i + 1, **row}
            for name, num_bytes in (("own", 0), ("shared, first start", 1 << 40), ("shared, later start", 1 << 40))
            for i, row in enumerate(_start(model, num_bytes))
        ]
    print_json({"bench": "shared_weights", "model": model, "rows": rows})


def _start(model: str, weight_cache_bytes: int) -> list[dict[str, float]]:
    """Starts engines one after the other, and measures all when the last one is there."""
    context = multiprocessing.get_context("spawn")
    engines = []
    for _ in range(NUM_STARTS):
        ours, theirs = context.Pipe()
        process = context.Process(target=_engine, args=(model, weight_cache_bytes, theirs))
        process.start()
        engines.append((process, ours, ours.recv()))
    rows = []
    for process, _, load_s in engines:
        assert process.pid is not None
        rows.append({"load_s": load_s, **_memory(process.pid)})
    for process, pipe, _ in engines:
        pipe.send(None)
        process.join()
    return rows


def _engine(model: str, weight_cache_bytes: int, pipe: Connection) -> None:
    cache = CacheConfig(num_blocks=200)
    config = EngineConfig(device="cpu", num_threads=1, weight_cache_bytes=weight_cache_bytes, cache=cache)
    torch.ones(1)
    started = time.perf_counter()
    executor = load_executor(ModelConfig(served_model_name="bench", model=model, engine=config))
    pipe.send(round(time.perf_counter() - started, 2))
    pipe.recv()
    executor.close()


def _memory(pid: int) -> dict[str, float]:
    """Megabytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    return {
        "pss_mb": round(kilobytes["Pss"] / 1024),
        "anonymous_mb": round(kilobytes["Pss_Anon"] / 1024),
        "huge_file_pages_mb": round(kilobytes.get("FilePmdMapped", 0) / 1024),
    }


if __name__ == "__main__":
    main()
