"""A real model's greedy answers on the card, beside those that a CPU gave: scripts/device_pack computes them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from configs.schema import EngineConfig, ModelConfig, SchedulerConfig
from engine.engine import Engine
from engine.execution.load import load_executor
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from scripts.bench.gpu.units import Row, Unit, unit

__all__ = ["PROMPTS_FILE", "check_reference_text", "greedy_answers"]

PROMPTS_FILE = "reference_text.json"
NEAR_TIE = 0.25  # nats between first and second choice, below which bfloat16 of another order may choose the other


def check_reference_text(device: torch.device, carried: Path) -> Iterator[Unit]:
    """Without what is carried along there is nothing to compare with."""
    if device.type == "cuda" and (carried / PROMPTS_FILE).exists():
        yield unit(_compare, carried)


def _compare(carried: Path) -> Iterator[Row]:
    """A difference counts where the CPU's two likeliest tokens were no near tie."""
    known = json.loads((carried / PROMPTS_FILE).read_text())
    found = greedy_answers(str(next(carried.glob("*.gguf"))), [one["prompt"] for one in known], known[0]["max_tokens"])
    for number, (expected, answer) in enumerate(zip(known, found, strict=True)):
        pairs = list(zip(expected["tokens"], answer["tokens"], strict=False))
        same = next((at for at, (a, b) in enumerate(pairs) if a != b), len(pairs))
        row: Row = {"name": "greedy text", "shape": f"prompt {number}", "tokens": len(pairs), "same": same}
        if same < len(pairs):
            margin = expected["margins"][same]
            yield {**row, "margin_where_they_part": margin, "ok": margin < NEAR_TIE}
        else:
            yield {**row, "ok": True}


def greedy_answers(source: str, prompts: list[list[int]], max_tokens: int) -> list[dict[str, Any]]:
    """Of each prompt's answer the tokens, and how much likelier each was than the second, in nats."""
    config = EngineConfig(scheduler=SchedulerConfig(max_num_seqs=len(prompts)), max_model_len=2048)
    model = ModelConfig(served_model_name="model", model=source, engine=config)
    executor = load_executor(model)
    engine = Engine(executor, model.name, config)
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, num_logprobs=2)
    answers: list[dict[str, Any]] = [{"tokens": [], "margins": []} for _ in prompts]
    for number, prompt in enumerate(prompts):
        engine.submit(
            GenerateRequest(
                request_id=str(number), model="model", inputs=(TokenSpan(tuple(prompt)),), sampling=sampling
            )
        )
    while engine.has_work:
        for chunk in engine.step():
            answer = answers[int(chunk.request_id)]
            answer["tokens"] += chunk.tokens
            for logprob in chunk.logprobs or ():
                first, second = sorted((value for _, value in logprob.top), reverse=True)[:2]
                answer["margins"].append(round(first - second, 4))
    engine.close()
    return answers
