"""Decode steps of the bare executor, and of its forward pass alone in a CUDA graph: what is between is overhead.

After them transformers, on the same shape.
"""

import time
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

from engine.batch import ForwardBatch
from engine.plan import SeqSlice, SeqStart, StepPlan
from engine.types import SamplingParams
from kernels.kernel_set import KernelSet
from scripts.bench.gpu.engine_peers import time_engine_peers
from scripts.bench.gpu.random_model import BLOCK_SIZE, LLAMA_8B, TINY, RandomModel
from scripts.bench.gpu.timing import Work, measure

__all__ = ["time_engine"]

CHUNK = 8192  # tokens of a prefill step


def time_engine(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[dict[str, Any]]:
    arch, batches, context, steps = (TINY, [1, 3], 20, 2) if tiny else (LLAMA_8B, [1, 32, 256], 1024, 32)
    width = -(-(context + steps) // BLOCK_SIZE)
    model = RandomModel(arch, kernels, max(batches) * width, torch.bfloat16, device)
    for batch in tqdm(batches, desc="engine", unit="batch"):
        blocks = [tuple(range(s * width, (s + 1) * width)) for s in range(batch)]
        prefill_s = _prefill(model, blocks, context)
        step_ms = _decode(model, blocks, context, steps)
        forward = measure([_forward(model, blocks, context)], device)
        yield {
            "engine": "manta",
            "batch": batch,
            "context": context,
            "new_tokens": steps,
            "prefill_tok_s": round(batch * context / prefill_s),
            "step_ms": round(step_ms, 3),
            "tok_s": round(batch / step_ms * 1000, 1),
            "tok_s_with_prefill": round(batch * steps / (prefill_s + steps * step_ms / 1000), 1),
            "forward_in_graph_ms": round(forward["median_us"] / 1000, 3),
            "overhead": round(1 - forward["median_us"] / 1000 / step_ms, 3),
        }
    model.executor.close()
    del model, forward  # transformers takes what memory it finds
    if device.type == "cuda":
        torch.cuda.empty_cache()
    yield from time_engine_peers(arch, device, batches, context, steps)


def _prefill(model: RandomModel, blocks: list[tuple[int, ...]], context: int) -> float:
    """Seconds for all sequences, as many in a step as CHUNK tokens are."""
    vocab_size = model.executor.vocab_size
    prompts = [tuple((37 * i + 11 * s) % vocab_size for i in range(context)) for s in range(len(blocks))]
    each = max(1, CHUNK // context)
    model.executor.execute(StepPlan(0, (SeqSlice(0, 0, prompts[0], blocks[0], False),)))  # compiles
    _wait(model.device)
    started = time.perf_counter()
    for at in range(0, len(blocks), each):
        some = range(at, min(at + each, len(blocks)))
        model.executor.execute(StepPlan(0, tuple(SeqSlice(s, 0, prompts[s], blocks[s], False) for s in some)))
    _wait(model.device)
    return time.perf_counter() - started


def _decode(model: RandomModel, blocks: list[tuple[int, ...]], context: int, steps: int) -> float:
    """Median milliseconds of a step, greedy."""
    sampling = SamplingParams(max_tokens=steps, temperature=0.0)
    starts = tuple(SeqStart(s, sampling, s, (1,) * context, ()) for s in range(len(blocks)))
    tokens: tuple[int, ...] = (1,) * len(blocks)
    times = []
    for step in range(steps):
        slices = tuple(SeqSlice(s, context + step, (tokens[s],), blocks[s], True) for s in range(len(blocks)))
        started = time.perf_counter()
        tokens = model.executor.execute(StepPlan(step, slices, starts if step == 0 else ())).tokens
        times.append(time.perf_counter() - started)
    model.executor.execute(StepPlan(0, (), (), tuple(range(len(blocks)))))
    return sorted(times)[len(times) // 2] * 1000


def _forward(model: RandomModel, blocks: list[tuple[int, ...]], context: int) -> Work:
    plan = StepPlan(0, tuple(SeqSlice(s, context, (1,), owned, True) for s, owned in enumerate(blocks)))
    batch = ForwardBatch.from_plan(plan, BLOCK_SIZE, model.device)
    return lambda: model.decoder.forward(batch, model.kv)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
