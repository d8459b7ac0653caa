from pathlib import Path

import pytest
import torch

from configs.schema import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine.cache.cache_layout import CacheGroup
from engine.engine import Engine
from engine.errors import ModelError
from engine.execution.inline_executor import InlineExecutor
from engine.execution.load import load_executor, warm_up_or_explain
from engine.execution.warm_up import warm_up
from engine.scheduling.scheduler_output import SchedulerOutput
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from tests.engine.parallel.test_ranks import tiny


def load(source: Path, **scheduler: int) -> tuple[InlineExecutor, SchedulerConfig]:
    config = SchedulerConfig(**scheduler)
    engine = EngineConfig(device="cpu", num_threads=1, cache=CacheConfig(num_blocks=40), scheduler=config)
    return load_executor(ModelConfig(served_model_name="tiny", model=str(source), engine=engine)), config


def answer(executor: InlineExecutor, config: SchedulerConfig) -> list[int]:
    sampling = SamplingParams(max_tokens=12, temperature=0.8, seed=3)
    request = GenerateRequest(request_id="a", model="tiny", inputs=(TokenSpan(tuple(range(1, 40))),), sampling=sampling)
    return [
        token
        for chunk in Engine(executor, "tiny", EngineConfig(scheduler=config)).generate(request)
        for token in chunk.tokens
    ]


@pytest.mark.parametrize(
    "scheduler",
    [
        {"max_num_batched_tokens": 512, "max_num_seqs": 40},
        {"max_num_batched_tokens": 10, "max_num_seqs": 40},
        {"max_num_batched_tokens": 1, "max_num_seqs": 1},
        {"max_num_batched_tokens": 64, "max_num_seqs": 20, "num_speculative_tokens": 3},
    ],
)
def test_answers_after_it_are_those_of_an_engine_without(tmp_path: Path, scheduler: dict[str, int]) -> None:
    source = tiny(tmp_path, "llama")
    executor, config = load(source, **scheduler)
    warm_up(executor, config)
    assert answer(executor, config) == answer(*load(source, **scheduler))


class Failing:
    """A card on which nothing works."""

    block_size, max_model_len, num_states, cascade, samples = 16, 512, 0, None, True
    cache_groups = (CacheGroup(),)

    def __init__(self, error: Exception) -> None:
        self.error = error

    def execute_model(self, scheduled: SchedulerOutput) -> None:
        raise self.error

    execute_without_sampling = execute_model


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("tried to allocate 3 GiB"), "tried to allocate 3 GiB.*lower .*gpu_memory_utilization"),
        (RuntimeError("capture was invalidated"), "capture was invalidated.*engine.enforce_eager to true"),
    ],
)
def test_a_card_that_cannot_compute_the_largest_step_says_what_to_change(error: Exception, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        warm_up_or_explain(Failing(error), EngineConfig())
