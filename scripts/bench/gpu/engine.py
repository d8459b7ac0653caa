"""The engine with random weights: decode steps, what of them is overhead, and where the device's time goes.

Overhead is what a step takes beyond its forward pass alone in a CUDA graph.
"""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import torch

from configs.schema import CacheConfig, EngineConfig, SchedulerConfig
from engine.arch.model_arch import ModelArch
from engine.engine import Engine
from engine.execution.cascade_timing import AttentionTimer, measure_cascade_thresholds
from engine.execution.warm_up import launch_all, warm_up
from engine.model.block_tables import BlockTables
from engine.model.cascade import CascadeThresholds
from engine.model.forward_batch import ForwardBatch
from engine.scheduling.scheduler_output import ScheduledSequence, SchedulerOutput
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from kernels.kernel_set import KernelSet
from scripts.bench.gpu.compile_ahead import compile_ahead
from scripts.bench.gpu.engine_peers import time_engine_peers
from scripts.bench.gpu.profile import kernel_times
from scripts.bench.gpu.random_model import BLOCK_SIZE, LLAMA_8B, TINY, RandomModel
from scripts.bench.gpu.timing import Work, measure
from scripts.bench.gpu.units import Row, Unit, unit

__all__ = ["start_row", "time_cascade", "time_engine", "time_engine_beside_peers", "time_four_bits"]

CHUNK = 8192  # tokens of a step
PROFILED_STEPS = 3
WARM_STEPS = 4
MakeModel = Callable[[], RandomModel]


def time_engine(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[Unit]:
    """Decode at three batches, each with a profile by kernel; then what graphs and async scheduling are worth."""
    arch, batches, context, steps = _sizes(tiny)
    num_blocks = _num_blocks(max(batches), context, steps)
    make = functools.cache(lambda: RandomModel(arch, kernels, num_blocks, torch.bfloat16, device))
    loads = {batch: [_prompt(arch.vocab_size, s, context) for s in range(batch)] for batch in batches}
    forward_ms: dict[int, float] = {}
    yield unit(_start, make, max(batches), _chunk(tiny))
    for batch, prompts in loads.items():
        yield unit(_forward_row, make, batch, context, forward_ms)
        yield unit(_beside_forward, "manta", make, prompts, steps, forward_ms, graphs=True, overlap=True)
        yield unit(_profile, make, prompts, batch)
    yield unit(_graph_memory, make, batches, context)
    for prompts in loads.values():
        ways = {"manta, no graphs": (False, True), "manta, no async scheduling": (True, False)}
        for name, (graphs, overlap) in ways.items():
            yield unit(_beside_forward, name, make, prompts, steps, forward_ms, graphs=graphs, overlap=overlap)
    yield unit(_whole_run, "manta, mixed lengths", make, _mixed(arch.vocab_size, tiny), 4 * steps)


def time_cascade(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[Unit]:
    """Many that share a long prefix, which is read for all at once or for each."""
    arch, _, _, steps = _sizes(tiny)
    prefix, sharing = (32, 2) if tiny else (8192, 64)
    num_blocks = prefix // BLOCK_SIZE + 32 * sharing + 64
    make = functools.cache(lambda: RandomModel(arch, kernels, num_blocks, torch.bfloat16, device))
    shared = [_prompt(arch.vocab_size, 0, prefix) + _prompt(arch.vocab_size, s, 20) for s in range(sharing)]
    yield unit(_thresholds, make, sharing)
    always = CascadeThresholds(((2, prefix),))
    for name, graphs, cascade in (
        ("manta, cascade", True, always),
        ("manta, cascade, no graphs", False, always),
        ("manta, no cascade", True, None),
    ):
        yield unit(_run, name, make, shared, steps, graphs=graphs, overlap=True, cascade=cascade)


def time_four_bits(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[Unit]:
    """The same model with weights of 4 bits in groups."""
    if kernels.quantized_linear is None:
        return
    arch, batches, context, steps = _sizes(tiny)
    if tiny:  # interpreted, a layer's matrices times one row take seconds
        arch = msgspec.structs.replace(arch, layers=arch.layers[:1])
    num_blocks = _num_blocks(max(batches), context, steps)
    make = functools.cache(lambda: RandomModel(arch, kernels, num_blocks, torch.bfloat16, device, four_bits=True))
    for batch in batches:
        prompts = [_prompt(arch.vocab_size, s, context) for s in range(batch)]
        yield unit(_run, "manta, 4 bits", make, prompts, steps, graphs=True, overlap=True)


def time_engine_beside_peers(device: torch.device, tiny: bool) -> Iterator[Unit]:
    """transformers on the loads of `time_engine`, for minutes."""
    arch, batches, context, steps = _sizes(tiny)
    loads = [([_prompt(arch.vocab_size, s, context) for s in range(batch)], steps) for batch in batches]
    yield unit(time_engine_peers, arch, device, [*loads, (_mixed(arch.vocab_size, tiny), 4 * steps)])


def _sizes(tiny: bool) -> tuple[ModelArch, list[int], int, int]:
    """(model, batches, tokens of a prompt, decode steps)"""
    return (TINY, [1, 2], 9, 2) if tiny else (LLAMA_8B, [1, 32, 256], 1024, 32)


def _chunk(tiny: bool) -> int:
    return 64 if tiny else CHUNK


def _mixed(vocab_size: int, tiny: bool) -> list[tuple[int, ...]]:
    few, shortest, longest = (2, 5, 9) if tiny else (256, 100, 1024)
    lengths = [shortest + (longest - shortest) * s // (few - 1) for s in reversed(range(few))]
    return [_prompt(vocab_size, s, length) for s, length in enumerate(lengths)]


def start_row(kernels: KernelSet, device: torch.device, tiny: bool) -> Row:
    """What stands between a process and its first answer, but for reading weights."""
    arch, batches, _, _ = _sizes(tiny)
    make = functools.cache(lambda: RandomModel(arch, kernels, 4096, torch.bfloat16, device))
    began_s = time.perf_counter()
    row = _start(make, max(batches), _chunk(tiny))
    first = _run("manta", make, [_prompt(arch.vocab_size, 0, 20)], 3, graphs=True, overlap=True)
    return {**row, "all_s": round(time.perf_counter() - began_s, 2), "first_step_ms": first["step_ms"]}


def _start(make: MakeModel, max_num_seqs: int, max_num_batched_tokens: int) -> Row:
    """What stands between weights on the device and the first answer, with whatever Triton's cache has."""
    began_s = time.perf_counter()
    model = make()
    _wait(model.device)
    made_s = time.perf_counter()
    config = SchedulerConfig(max_num_batched_tokens=max_num_batched_tokens, max_num_seqs=max_num_seqs)
    eager = model.executor_of(0)
    num_variants = compile_ahead(lambda: launch_all(eager, config), model.device)
    eager.close()
    compiled_s = time.perf_counter()
    executor = model.executor_of(max_num_seqs)
    warm_up(executor, config)
    _wait(model.device)
    warm_s = time.perf_counter()
    executor.close()
    return {
        "engine": "start",
        "num_variants": num_variants,
        "weights_s": round(made_s - began_s, 2),
        "compile_s": round(compiled_s - made_s, 2),
        "warm_up_s": round(warm_s - compiled_s, 2),
    }


def _forward_row(make: MakeModel, batch: int, context: int, forward_ms: dict[int, float]) -> Row:
    timing = measure([_forward(make(), batch, context)], make().device)
    forward_ms[batch] = timing["median_us"] / 1000
    return {"engine": "forward in a graph", "batch": batch, "context": context, **timing}


def _beside_forward(
    name: str, make: MakeModel, prompts: list[tuple[int, ...]], steps: int, forward_ms: dict[int, float], **ways: Any
) -> Row:
    row = _run(name, make, prompts, steps, **ways)
    alone_ms = forward_ms.get(len(prompts))
    if alone_ms is None:
        return row
    return {**row, "forward_in_graph_ms": alone_ms, "overhead": round(1 - alone_ms / row["step_ms"], 3)}


def _profile(make: MakeModel, prompts: list[tuple[int, ...]], batch: int) -> Row:
    """Of decode steps: each kernel's calls and time a step, the device's time in all, and the step's."""
    model = make()
    executor = model.executor_of(batch)
    engine = _engine(executor, prompts, _max_tokens(prompts, PROFILED_STEPS), overlap=True)
    _prefill(engine, batch)
    for _ in range(WARM_STEPS):
        engine.step()
    found = kernel_times(engine.step, PROFILED_STEPS, model.device)
    engine.fail("measured")
    engine.step()
    executor.close()
    return {"engine": "profile", "batch": batch, **found}


def _graph_memory(make: MakeModel, batches: list[int], context: int) -> Iterator[Row]:
    """What a captured graph of a whole decode step takes, and how long its capture."""
    model = make()
    if model.device.type != "cuda":
        return
    capture = model.capture()
    for batch in (*batches, 2, 8):
        run = _forward(model, batch, context)
        run()
        torch.cuda.synchronize()
        free, began_s = torch.cuda.mem_get_info()[0], time.perf_counter()
        keep = capture(run)  # type: ignore[arg-type]
        torch.cuda.synchronize()
        took_ms = (time.perf_counter() - began_s) * 1000
        mib = (free - torch.cuda.mem_get_info()[0]) / 2**20
        keep()
        yield {"engine": "graph", "batch": batch, "capture_ms": round(took_ms, 1), "mib": round(mib, 1)}


def _thresholds(make: MakeModel, sharing: int) -> Row:
    model = make()
    timer = AttentionTimer(model.decoder, model.kv, model.max_model_len, sharing, model.device, model.capture())
    return {"engine": "manta, cascade from (rows, tokens)", "steps": measure_cascade_thresholds(timer).steps}


def _prompt(vocab_size: int, seed: int, length: int) -> tuple[int, ...]:
    return tuple((37 * i + 11 * seed) % vocab_size for i in range(length))


def _run(
    name: str,
    make: MakeModel,
    prompts: list[tuple[int, ...]],
    steps: int,
    *,
    graphs: bool,
    overlap: bool,
    cascade: CascadeThresholds | None = None,
) -> Row:
    """Greedy answers to all prompts at once. Steps are timed when each answer has begun and none has ended."""
    model, batch = make(), len(prompts)
    executor = model.executor_of(batch if graphs else 0, cascade)
    engine = _engine(executor, prompts, _max_tokens(prompts, steps), overlap=overlap)
    _wait(model.device)
    began_s = time.perf_counter()
    _prefill(engine, batch)
    prefill_s = time.perf_counter() - began_s
    for _ in range(WARM_STEPS):  # in which their graph is captured
        engine.step()
    step_ms, num_tokens, began_s = [], 0, time.perf_counter()
    for _ in range(steps):
        step_began_s = time.perf_counter()
        num_tokens += sum(len(chunk.tokens) for chunk in engine.step())
        step_ms.append((time.perf_counter() - step_began_s) * 1000)
    took_s = time.perf_counter() - began_s
    engine.fail("measured")
    engine.step()  # what was begun for nobody
    executor.close()
    return {
        "engine": name,
        "context": max(map(len, prompts)),
        "batch": batch,
        "steps": steps,
        "prefill_tok_s": round(sum(map(len, prompts)) / prefill_s),
        "step_ms": round(sorted(step_ms)[len(step_ms) // 2], 3),
        "slowest_step_ms": round(max(step_ms), 3),
        "tokens_a_step": round(num_tokens / steps, 2),
        "tok_s": round(num_tokens / took_s, 1),
    }


def _whole_run(name: str, make: MakeModel, prompts: list[tuple[int, ...]], max_tokens: int) -> Row:
    """From the first prompt to the last token, prompts included; the second time that it is asked for."""
    model, batch = make(), len(prompts)
    executor = model.executor_of(batch)
    for _ in range(2 if model.device.type == "cuda" else 1):
        engine = _engine(executor, prompts, max_tokens, overlap=True)
        _wait(model.device)
        began_s, num_tokens = time.perf_counter(), 0
        while engine.has_work:
            num_tokens += sum(len(chunk.tokens) for chunk in engine.step())
        took_s = time.perf_counter() - began_s
        engine.step()
    executor.close()
    return {
        "engine": name,
        "batch": batch,
        "prompt_tokens": sum(map(len, prompts)),
        "new_tokens": num_tokens,
        "out_tok_s": round(num_tokens / took_s, 1),
        "all_tok_s": round((num_tokens + sum(map(len, prompts))) / took_s, 1),
    }


def _max_tokens(prompts: list[tuple[int, ...]], steps: int) -> int:
    """So many that none has ended when the last one has begun and `steps` more are timed."""
    return steps + WARM_STEPS + 4 + 2 * -(-sum(map(len, prompts)) // CHUNK)


def _num_blocks(batch: int, context: int, steps: int) -> int:
    return batch * -(-(context + _max_tokens([(0,) * context] * batch, steps)) // BLOCK_SIZE) + 1


def _prefill(engine: Engine, left: int) -> None:
    while left:
        left -= sum(chunk.start == 0 for chunk in engine.step())


def _engine(executor: Any, prompts: list[tuple[int, ...]], max_tokens: int, overlap: bool) -> Engine:
    batch = len(prompts)
    shares = len({prompt[:BLOCK_SIZE] for prompt in prompts}) == 1 and batch > 1
    config = SchedulerConfig(max_num_batched_tokens=CHUNK, max_num_seqs=batch, max_queued_tokens=10**9)
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    executor.async_scheduling = overlap
    engine = Engine(executor, "random", EngineConfig(scheduler=config, cache=CacheConfig(enable_prefix_caching=shares)))
    for number, prompt in enumerate(prompts):
        engine.submit(
            GenerateRequest(request_id=str(number), model="random", inputs=(TokenSpan(prompt),), sampling=sampling)
        )
    return engine


def _forward(model: RandomModel, batch: int, context: int) -> Work:
    """One token of each sequence, as far as the logits."""
    width = -(-(context + 1) // BLOCK_SIZE)
    blocks = [tuple(range(s * width, (s + 1) * width)) for s in range(batch)]
    sequences = tuple(ScheduledSequence(s, context, (1,), (owned,), True) for s, owned in enumerate(blocks))
    scheduled = SchedulerOutput(0, sequences)
    step = ForwardBatch.from_scheduled(scheduled, BlockTables.of(scheduled, BLOCK_SIZE), model.device)
    return lambda: model.decoder.forward(step, model.kv)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
