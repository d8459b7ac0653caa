"""transformers on the same shape and device, what a step of ours is compared with. It need not be installed."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from tqdm import tqdm

from engine.arch.mixer_spec import SelfAttention
from engine.arch.model_arch import ModelArch

__all__ = ["time_engine_peers"]


def time_engine_peers(
    arch: ModelArch, device: torch.device, loads: Sequence[tuple[list[tuple[int, ...]], int]]
) -> Iterator[dict[str, Any]]:
    """Greedy answers to all prompts of a load, to the last of so many tokens. One that cannot run says why in its row.

    The first load has a single prompt.
    """
    runs: list[tuple[str, list[tuple[int, ...]], int, Callable[..., dict[str, float]]]] = [
        ("static cache", *loads[0], _static_cache)
    ]
    runs += [("generate_batch", *load, _generate_batch) for load in loads]
    model = None
    for name, asked, steps, run in tqdm(runs, desc="engine peers", unit="run"):
        context = max(map(len, asked))
        row = {"engine": f"transformers {name}", "batch": len(asked), "context": context, "new_tokens": steps}
        prompts = [list(prompt) for prompt in asked]
        try:
            model = model or _random_llama(arch, device)
            yield {**row, **run(model, prompts, steps, device)}
        except Exception as error:  # of any kind: a peer must not end the run
            yield {**row, "failed": f"{type(error).__name__}: {error}".partition("\n")[0]}


def _static_cache(model: Any, prompts: list[list[int]], steps: int, device: torch.device) -> dict[str, float]:
    """Decode steps in a compiled graph: transformers compiles by itself on a GPU where the cache is static."""
    tokens = torch.tensor(prompts, device=device)

    def seconds(num_tokens: int) -> float:
        return _seconds(
            lambda: model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=num_tokens,
                min_new_tokens=num_tokens,
                do_sample=False,
                cache_implementation="static",
                eos_token_id=None,
                pad_token_id=0,
            ),
            device,
        )

    seconds(steps + 1)  # compiles
    step_s = (seconds(steps + 1) - seconds(1)) / steps
    return {"step_ms": round(step_s * 1000, 3), "tok_s": round(len(prompts) / step_s, 1)}


def _generate_batch(model: Any, prompts: list[list[int]], steps: int, device: torch.device) -> dict[str, float]:
    """Continuous batching, prompts and all."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    options = {"max_new_tokens": steps, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
    config = GenerationConfig(**options)  # type: ignore[no-untyped-call]
    few: dict[str, Any] = {} if device.type == "cuda" else {"num_blocks": 16, "max_batch_tokens": 64}
    batching = ContinuousBatchingConfig(allow_block_sharing=False, **few)  # the second time is no cheaper

    def run() -> None:
        # what holds the cache and the graphs is kept, as ours are
        done = model.generate_batch(prompts, config, batching, progress_bar=False, persistent_manager=True)
        if [len(one.generated_tokens) for one in done.values()] != [steps] * len(prompts):
            raise RuntimeError("generate_batch did not finish its requests")

    try:
        run()  # compiles
        whole_s = _seconds(run, device)
    finally:
        model.destroy_cached_continuous_batching_manager()  # the next load needs another
    return {"seconds": round(whole_s, 3), "tok_s_with_prefill": round(len(prompts) * steps / whole_s, 1)}


def _random_llama(arch: ModelArch, device: torch.device) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    (layer,) = set(arch.layers)
    mixer = layer.mixer
    assert isinstance(mixer, SelfAttention) and mixer.rope is not None and layer.feed_forward is not None
    config = LlamaConfig(
        vocab_size=arch.vocab_size,
        hidden_size=arch.model_dim,
        intermediate_size=layer.feed_forward.dim,
        num_hidden_layers=arch.num_layers,
        num_attention_heads=mixer.num_heads,
        num_key_value_heads=mixer.num_kv_heads,
        head_dim=mixer.head_dim,
        max_position_embeddings=min(arch.max_model_len, 8192),
        rms_norm_eps=arch.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": mixer.rope.theta},
    )
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # whole in fp32 it would take twice the memory for a moment
    try:
        with device:
            model: Any = LlamaForCausalLM(config)
            return model.eval()
    finally:
        torch.set_default_dtype(usual)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
