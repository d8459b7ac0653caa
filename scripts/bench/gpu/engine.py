"""The engine with random weights: decode steps, what of them is overhead, and what each part of it is worth.

Overhead is what a step takes beyond its forward pass alone in a CUDA graph. After it transformers, on the same shape.
"""

import time
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

from configs.schema import CacheConfig, SchedulerConfig
from engine.batch import ForwardBatch
from engine.cascade import CascadeThresholds
from engine.cascade_timing import AttentionTimer, measure_thresholds
from engine.engine import Engine
from engine.plan import SeqSlice, StepPlan
from engine.types import GenerateRequest, SamplingParams
from kernels.kernel_set import KernelSet
from scripts.bench.gpu.engine_peers import time_engine_peers
from scripts.bench.gpu.random_model import BLOCK_SIZE, LLAMA_8B, TINY, RandomModel
from scripts.bench.gpu.spared import spared, why
from scripts.bench.gpu.timing import Work, measure

__all__ = ["time_engine"]

CHUNK = 8192  # tokens of a step
# what is left out: (graphs, overlap)
WAYS = {"manta": (True, True), "manta, no graphs": (False, True), "manta, no overlap": (True, False)}


def time_engine(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[dict[str, Any]]:
    arch, batches, context, steps = (TINY, [1, 3], 20, 3) if tiny else (LLAMA_8B, [1, 32, 256], 1024, 32)
    prefix, sharing = (32, 2) if tiny else (8192, 64)
    num_blocks = max(max(batches) * -(-(context + steps + 2) // BLOCK_SIZE), prefix // BLOCK_SIZE + 32 * sharing)
    model = RandomModel(arch, kernels, num_blocks + 1, torch.bfloat16, device)
    for batch in tqdm(batches, desc="engine", unit="batch"):
        prompts = [_prompt(arch.vocab_size, s, context) for s in range(batch)]
        graph_ms = None
        try:
            graph_ms = measure([_forward(model, batch, context)], device)["median_us"] / 1000
        except Exception as error:  # as for want of memory: the steps are timed all the same
            yield {"engine": "forward in a graph", "batch": batch, "ok": False, "failed": why(error)}
        for name, (graphs, overlap) in WAYS.items():
            yield from spared(_beside_forward, name, model, prompts, steps, graph_ms, graphs=graphs, overlap=overlap)
    shared = [_prompt(arch.vocab_size, 0, prefix) + _prompt(arch.vocab_size, s, 20) for s in range(sharing)]
    timer = AttentionTimer(model.decoder, model.kv, model.max_context_len, sharing, device, model.capture())
    yield from spared(_thresholds, timer)
    always = CascadeThresholds(((2, prefix),))
    for name, graphs, cascade in (
        ("manta, cascade", True, always),
        ("manta, cascade, no graphs", False, always),
        ("manta, no cascade", True, None),
    ):
        yield from spared(_run, name, model, shared, steps, graphs=graphs, overlap=True, cascade=cascade)
    few, shortest, longest = (3, 10, 20) if tiny else (256, 100, 1024)
    mixed = [
        _prompt(arch.vocab_size, s, shortest + (longest - shortest) * s // (few - 1)) for s in reversed(range(few))
    ]
    yield from spared(_run, "manta, mixed lengths", model, mixed, 4 * steps, graphs=True, overlap=True)
    model.executor.close()
    del model  # the next one, and transformers, take what memory they find
    if kernels.quantised_linear is not None:
        model = RandomModel(arch, kernels, num_blocks + 1, torch.bfloat16, device, four_bits=True)
        for batch in batches:
            prompts = [_prompt(arch.vocab_size, s, context) for s in range(batch)]
            yield from spared(_run, "manta, 4 bits", model, prompts, steps, graphs=True, overlap=True)
        model.executor.close()
        del model
    if device.type == "cuda":
        torch.cuda.empty_cache()
    loads = [([_prompt(arch.vocab_size, s, context) for s in range(batch)], steps) for batch in batches]
    yield from time_engine_peers(arch, device, [*loads, (mixed, 4 * steps)])


def _thresholds(timer: AttentionTimer) -> dict[str, Any]:
    return {"engine": "manta, cascade from (rows, tokens)", "steps": measure_thresholds(timer).steps}


def _beside_forward(
    name: str,
    model: RandomModel,
    prompts: list[tuple[int, ...]],
    steps: int,
    graph_ms: float | None,
    *,
    graphs: bool,
    overlap: bool,
) -> dict[str, Any]:
    row = _run(name, model, prompts, steps, graphs=graphs, overlap=overlap)
    if graph_ms is None:
        return row
    return {**row, "forward_in_graph_ms": graph_ms, "overhead": round(1 - graph_ms / row["step_ms"], 3)}


def _prompt(vocab_size: int, seed: int, length: int) -> tuple[int, ...]:
    return tuple((37 * i + 11 * seed) % vocab_size for i in range(length))


def _run(
    name: str,
    model: RandomModel,
    prompts: list[tuple[int, ...]],
    steps: int,
    *,
    graphs: bool,
    overlap: bool,
    cascade: CascadeThresholds | None = None,
) -> dict[str, Any]:
    """Greedy answers of `steps` tokens to all prompts at once; on a GPU the second time that they are asked for."""
    batch = len(prompts)
    executor = model.executor_of(batch if graphs else 0, cascade)
    shares = len({prompt[:BLOCK_SIZE] for prompt in prompts}) == 1 and batch > 1
    config = SchedulerConfig(max_step_tokens=CHUNK, max_sequences=batch, max_queued_tokens=10**9)
    sampling = SamplingParams(max_tokens=steps + 1, temperature=0.0)
    for _ in range(2 if model.device.type == "cuda" else 1):
        engine = Engine(executor, "random", config, CacheConfig(prefix_sharing=shares), overlap=overlap)
        for number, prompt in enumerate(prompts):
            engine.submit(GenerateRequest(request_id=str(number), model="random", prompt=prompt, sampling=sampling))
        _wait(model.device)
        began_s = time.perf_counter()
        left, prefill_s, ends_s = batch, 0.0, []
        while engine.has_work:
            left -= sum(chunk.start == 0 for chunk in engine.step())
            if left == 0:
                ends_s.append(time.perf_counter())
                prefill_s = prefill_s or ends_s[-1] - began_s
        engine.step()  # what was begun for nobody
    step_ms = sorted(b - a for a, b in zip(ends_s, ends_s[1:], strict=False))[len(ends_s) // 2 - 1] * 1000
    executor.close()
    return {
        "engine": name,
        "context": max(map(len, prompts)),
        "batch": batch,
        "new_tokens": steps,
        "prefill_tok_s": round(sum(map(len, prompts)) / prefill_s),
        "step_ms": round(step_ms, 3),
        "tok_s": round(batch / step_ms * 1000, 1),
        "tok_s_with_prefill": round(batch * (steps + 1) / (ends_s[-1] - began_s), 1),
    }


def _forward(model: RandomModel, batch: int, context: int) -> Work:
    """One token of each sequence, as far as the logits."""
    width = -(-(context + 1) // BLOCK_SIZE)
    blocks = [tuple(range(s * width, (s + 1) * width)) for s in range(batch)]
    plan = StepPlan(0, tuple(SeqSlice(s, context, (1,), owned, True) for s, owned in enumerate(blocks)))
    step = ForwardBatch.from_plan(plan, BLOCK_SIZE, model.device)
    return lambda: model.decoder.forward(step, model.kv)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
