"""Time of an engine's steps for a mixture of experts with random weights, on a CPU: python -m scripts.bench.experts.

The shape is that of a small Qwen3 MoE (by default 12 layers of 64 experts, of which a token takes 8). For each batch
the median time of decode steps and its CPU seconds, and of a prompt that comes alone. Compare two trees in turn:

    for turn in 1 2 3; do for tree in OLD NEW; do PYTHONPATH=$tree python -P NEW/scripts/bench/experts.py; done; done
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from configs.schema import CacheConfig, EngineConfig, ModelConfig
from engine.engine import Engine
from engine.execution.load import load_executor
from engine.types import GenerateRequest, SamplingParams, TokenSpan

__all__ = ["main"]

VOCAB = 4096


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        _write_model(Path(folder), options)
        config = EngineConfig(
            device="cpu",
            dtype="bfloat16",
            num_threads=options.threads,
            max_model_len=2048,
            cache=CacheConfig(num_blocks=4096, enable_prefix_caching=False),
        )
        executor = load_executor(ModelConfig(served_model_name="m", model=folder, engine=config))
        engine = Engine(executor, "m", config)
        for batch in options.batches:
            print(json.dumps(_decode(engine, batch, options.steps)), flush=True)
        print(json.dumps(_prefill(engine, options.prompt)), flush=True)
        engine.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--prompt", type=int, default=512, help="tokens")
    for name, default in (("layers", 12), ("dim", 512), ("experts", 64), ("taken", 8), ("expert-dim", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def _write_model(folder: Path, options: argparse.Namespace) -> None:
    config = {
        "model_type": "qwen3_moe",
        "vocab_size": VOCAB,
        "hidden_size": options.dim,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.dim // 64,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "num_experts": options.experts,
        "num_experts_per_tok": options.taken,
        "moe_intermediate_size": options.expert_dim,
        "intermediate_size": options.expert_dim,
        "norm_topk_prob": True,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    (folder / "config.json").write_text(json.dumps(config))
    rng = torch.Generator().manual_seed(0)
    tensors = {name: _random(shape, rng) for name, shape in _shapes(options)}
    save_file(tensors, folder / "model.safetensors")


def _shapes(options: argparse.Namespace) -> Iterator[tuple[str, tuple[int, ...]]]:
    dim, inner = options.dim, options.expert_dim
    yield "model.embed_tokens.weight", (VOCAB, dim)
    yield "model.norm.weight", (dim,)
    for layer in range(options.layers):
        at = f"model.layers.{layer}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{at}.{name}.weight", (dim,)
        for name, rows in (("q", dim), ("k", 128), ("v", 128), ("o", dim)):
            yield f"{at}.self_attn.{name}_proj.weight", (rows, dim)
        for name in ("q_norm", "k_norm"):
            yield f"{at}.self_attn.{name}.weight", (64,)
        yield f"{at}.mlp.gate.weight", (options.experts, dim)
        for expert in range(options.experts):
            for name in ("gate", "up"):
                yield f"{at}.mlp.experts.{expert}.{name}_proj.weight", (inner, dim)
            yield f"{at}.mlp.experts.{expert}.down_proj.weight", (dim, inner)


def _random(shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    values: torch.Tensor = torch.randn(shape, generator=rng) * shape[-1] ** -0.5
    return values.bfloat16()


def _submit(engine: Engine, number: int, prompt_len: int, max_tokens: int) -> None:
    rng = torch.Generator().manual_seed(number)
    prompt = tuple(torch.randint(VOCAB, (prompt_len,), generator=rng).tolist())
    sampling = SamplingParams(max_tokens=max_tokens)
    engine.submit(GenerateRequest(request_id=str(number), model="m", inputs=(TokenSpan(prompt),), sampling=sampling))


def _decode(engine: Engine, batch: int, steps: int) -> dict[str, Any]:
    """Of steps of `batch` sequences, the first ones of which are left out."""
    for number in range(batch):
        _submit(engine, number, 16, 2 * steps + 20)
    warm = 10
    for _ in range(warm):
        engine.step()
    wall, cpu = [], []
    for _ in range(steps):
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        engine.step()
        wall.append(time.perf_counter() - began_s)
        cpu.append(time.process_time() - began_cpu_s)
    while engine.has_work:
        engine.step()
    return {
        "batch": batch,
        "step_ms": round(statistics.median(wall) * 1e3, 2),
        "step_cpu_ms": round(statistics.median(cpu) * 1e3, 2),
    }


def _prefill(engine: Engine, prompt_len: int) -> dict[str, Any]:
    wall, cpu = [], []
    for turn in range(5):
        _submit(engine, 1000 + turn, prompt_len, 1)
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        while engine.has_work:
            engine.step()
        wall.append(time.perf_counter() - began_s)
        cpu.append(time.process_time() - began_cpu_s)
    return {
        "prompt": prompt_len,
        "ms": round(statistics.median(wall) * 1e3, 1),
        "cpu_ms": round(statistics.median(cpu) * 1e3, 1),
    }


if __name__ == "__main__":
    main()
