"""python -m scripts.bench.gpu.stack FOLDER: the whole stack on one GPU, from HTTP to kernel and back.

A checkpoint of random weights in the shape of Llama-3.1-8B, with the tokenizer in FOLDER, is written beside it and
served by `manta serve`: first one replica under load, then two deterministic ones on the same GPU, of which one is
killed while they stream.
"""

import argparse
import asyncio
import json
import random
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from scripts.bench.compare import Running, Server
from scripts.bench.serve import bodies, run

__all__ = ["main", "random_checkpoint"]

SIZES = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
PORT = 18100
NUM_CLIENTS = 4  # processes that share a load, so that reading the streams does not bound it
ENGINE = {"scheduler": {"max_num_batched_tokens": 8192, "max_num_seqs": 256}}


def main() -> None:
    options = _options()
    checkpoint = options.folder / "checkpoint"
    began_s = time.perf_counter()
    random_checkpoint(options.folder, checkpoint, options.layers)
    print(f"checkpoint written in {time.perf_counter() - began_s:.1f} s", flush=True)
    rows = []
    if "load" in options.parts:
        rows += _load(options, checkpoint)
    if "faults" in options.parts:
        rows += _faults(options, checkpoint)
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    result = {
        "bench": "stack",
        "card": card,
        "torch": torch.__version__,
        "sizes": SIZES,
        "num_layers": options.layers,
        "rows": rows,
    }
    (options.out / "stack.json").write_text(json.dumps(result, indent=1) + "\n")


def random_checkpoint(source: Path, target: Path, num_layers: int) -> None:
    """A Llama of SIZES with normal weights; vocabulary and tokenizer are those of `source`."""
    target.mkdir(exist_ok=True)
    for file in source.glob("*"):
        if file.is_file() and file.name != "model.safetensors":
            shutil.copy(file, target)
    vocab_size = json.loads((source / "config.json").read_text())["vocab_size"]
    rope = {"rope_theta": 500_000.0, "rope_type": "default"}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab_size, **SIZES}
    config["num_hidden_layers"] = num_layers
    config |= {"max_position_embeddings": 32_768, "rms_norm_eps": 1e-5, "hidden_act": "silu", "dtype": "bfloat16"}
    config |= {"rope_theta": 500_000.0, "rope_parameters": rope, "tie_word_embeddings": True, "head_dim": 128}
    (target / "config.json").write_text(json.dumps(config))
    save_file(_weights(vocab_size, num_layers), target / "model.safetensors", {"format": "pt"})


def _weights(vocab_size: int, num_layers: int) -> dict[str, torch.Tensor]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    draw = torch.Generator(device).manual_seed(7)
    dim, ffn = SIZES["hidden_size"], SIZES["intermediate_size"]
    kv_dim = dim // SIZES["num_attention_heads"] * SIZES["num_key_value_heads"]

    def normal(*shape: int) -> torch.Tensor:
        made = torch.randn(shape, generator=draw, device=device, dtype=torch.bfloat16)
        return made.mul_(shape[-1] ** -0.5).cpu()

    ones = torch.ones(dim, dtype=torch.bfloat16)
    weights = {"model.embed_tokens.weight": normal(vocab_size, dim), "model.norm.weight": ones.clone()}
    for i in range(num_layers):
        layer = f"model.layers.{i}"
        for name, *shape in (
            ("self_attn.q_proj", dim, dim),
            ("self_attn.k_proj", kv_dim, dim),
            ("self_attn.v_proj", kv_dim, dim),
            ("self_attn.o_proj", dim, dim),
            ("mlp.gate_proj", ffn, dim),
            ("mlp.up_proj", ffn, dim),
            ("mlp.down_proj", dim, ffn),
        ):
            weights[f"{layer}.{name}.weight"] = normal(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{layer}.{name}.weight"] = ones.clone()
    return weights


def _load(options: argparse.Namespace, checkpoint: Path) -> list[dict[str, Any]]:
    running = Running(_server(options, checkpoint, "load", {}), options.out / "load.log")
    rows: list[dict[str, Any]] = [{"part": "load", "start_s": round(running.start_s, 1)}]
    try:
        for concurrency in options.concurrency:
            rows.append({"part": "load", **_measure(running.model, concurrency, options.prompt_words)})
            print(rows[-1], flush=True)
    finally:
        running.close()
    return rows


def _measure(model: str, concurrency: int, prompt_words: int) -> dict[str, Any]:
    """Each client twice: a prompt and 256 tokens. Figures of several client processes are added up or the worst."""
    parts = min(NUM_CLIENTS, concurrency)
    began_s = time.perf_counter()
    with ProcessPoolExecutor(parts, get_context("spawn")) as pool:
        list(pool.map(abs, range(parts)))
        began_s = time.perf_counter()
        jobs = [pool.submit(_client, model, concurrency // parts, prompt_words, i) for i in range(parts)]
        rows = [job.result() for job in jobs]
    wall_s = time.perf_counter() - began_s
    worst = {
        key: max(row[key][share] for row in rows) for key, share in (("ttft_ms", "p99"), ("inter_token_ms", "p99"))
    }
    median = {key: sorted(row[key]["p50"] for row in rows)[len(rows) // 2] for key in ("ttft_ms", "inter_token_ms")}
    return {
        "concurrency": concurrency,
        "output_tok_s": round(sum(row["num_requests"] for row in rows) * 256 / wall_s),
        "prompt_tokens": sum(row["prompt_tokens"] for row in rows),
        **{f"{key}_p99": value for key, value in worst.items()},
        **{f"{key}_p50": value for key, value in median.items()},
    }


def _client(model: str, concurrency: int, prompt_words: int, number: int) -> dict[str, Any]:
    draw = random.Random(f"{concurrency} {number}")
    wanted = bodies(model, 2 * concurrency, 256, draw, num_words=prompt_words)
    return asyncio.run(run(f"http://127.0.0.1:{PORT}/v1", "load", wanted, concurrency))


def _faults(options: argparse.Namespace, checkpoint: Path) -> list[dict[str, Any]]:
    half = {"deterministic": True, "cache": {"gpu_memory_utilization": 0.4}}
    server = _server(options, checkpoint, "faults", half, num_replicas=2, num_gpus=0.5)
    running = Running(server, options.out / "faults.log")
    try:
        command = [sys.executable, "-m", "scripts.bench.faults", "--url", server.url, "--deployment", "Replica-random"]
        command += ["--after", str(options.after), "--faults", *options.faults]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        print(done.stdout[-6000:], done.stderr[-3000:], flush=True)
        return [{"part": "faults", "start_s": round(running.start_s, 1), "rc": done.returncode, "said": done.stdout}]
    finally:
        running.close()


def _server(
    options: argparse.Namespace, checkpoint: Path, name: str, engine: dict[str, Any], num_replicas: int = 1,
    num_gpus: float = 1.0,
) -> Server:  # fmt: skip
    model = {
        "served_model_name": "random",
        "model": str(checkpoint),
        "num_replicas": num_replicas,
        "resources": {
            "num_cpus": 2 if torch.cuda.is_available() else 1,
            "num_gpus": num_gpus if torch.cuda.is_available() else 0,
        },
        "engine": {**ENGINE, **engine},
    }
    application = {"name": "manta", "route_prefix": "/", "import_path": "serve_app.main:build"}
    ingress = {"num_replicas": options.ingresses}
    config = {"applications": [{**application, "args": {"models": [model], "ingress": ingress}}]}
    file = options.out / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config))
    return Server(name, (sys.executable, "-m", "scripts.manta", "serve", str(file), "--port", str(PORT)), PORT)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="config.json and tokenizer of any model")
    parser.add_argument("--parts", nargs="+", choices=("load", "faults"), default=("load", "faults"))
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--prompt-words", type=int, default=200)
    parser.add_argument("--ingresses", type=int, default=1)
    parser.add_argument("--after", type=float, default=0.4, help="seconds from the first request to the fault")
    parser.add_argument("--faults", nargs="+", default=["one replica killed", "one replica paused"])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("stack"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    main()
