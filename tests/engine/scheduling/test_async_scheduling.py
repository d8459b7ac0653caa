"""Steps that are planned while the one before is computed, against steps one after the other: the same answers."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from llguidance import LLMatcher

from configs.schema import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine.engine import Engine
from engine.execution.inline_executor import InlineExecutor
from engine.execution.load import load_executor
from engine.execution.tensor_parallel_executor import TensorParallelExecutor
from engine.structured_output.grammar import Vocabulary
from engine.types import (
    BeamParams,
    Fit,
    GenerateRequest,
    Grammar,
    ReasoningBudget,
    RepetitionLimit,
    RequestOutput,
    SamplingParams,
    TokenSpan,
)
from tests.engine.parallel.test_ranks import driving, tiny

END = 202
WORDS = Vocabulary((*(bytes([byte]) for byte in range(202)), b"<end>"), (END,), (END,))
SCHEMA = LLMatcher.grammar_from_json_schema(
    {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False}
)


def config_of(source: Path, **engine: Any) -> ModelConfig:
    cache = CacheConfig(num_blocks=40, block_size=4)
    return ModelConfig(
        served_model_name="tiny", model=str(source), engine=EngineConfig(dtype="float32", cache=cache, **engine)
    )


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InlineExecutor]:
    made = load_executor(config_of(tiny(tmp_path_factory.mktemp("tiny"), "llama"), async_scheduling=True), WORDS)
    assert made.async_scheduling
    yield made
    made.close()


def requests() -> list[GenerateRequest]:
    """All that makes one step depend on the one before."""
    rng = random.Random(1)
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"seed": 4, "num_logprobs": 2, "logprob_token_ids": (7, 9)},
        {"temperature": 0.0, "presence_penalty": 0.4, "frequency_penalty": 0.3, "repetition_penalty": 1.2},
        {"bad_words": ((7, 8), (9,)), "logit_bias": ((7, 4.0), (8, 4.0)), "seed": 1},
        {"temperature": 0.0, "stop_token_ids": (7,), "logit_bias": ((7, 3.0),), "min_tokens": 5},
        {"num_prompt_logprobs": 2, "num_logprobs": 0, "seed": 2},
        {"thinking": ReasoningBudget(3, (7, 8)), "seed": 3},
        {"repetition": RepetitionLimit(1, 3, 3), "temperature": 0.0},
        {"grammar": Grammar(SCHEMA), "stop_token_ids": (END,), "seed": 5},
        {"grammar": Grammar(SCHEMA, (7,)), "stop_token_ids": (END,), "logit_bias": ((7, 9.0),), "seed": 6},
        {"grammar": Grammar(SCHEMA, fit=Fit(14)), "stop_token_ids": (END,), "max_tokens": 14, "seed": 7},
        {"beam": BeamParams(3), "n": 2, "stop_token_ids": (END,)},
        {"n": 3, "seed": 8},
    ]
    asked = []
    for i, kind in enumerate(kinds):
        of_request = {name: kind.pop(name) for name in ("grammar", "beam", "n") if name in kind}
        sampling = SamplingParams(**{"max_tokens": rng.randint(8, 25), **kind})
        prompt = tuple(rng.randrange(200) for _ in range(rng.randint(1, 30)))
        one = GenerateRequest(
            request_id=str(i), model="tiny", inputs=(TokenSpan(prompt),), sampling=sampling, **of_request
        )
        asked.append(one)
    return asked


def answers(
    executor: InlineExecutor | TensorParallelExecutor, async_scheduling: bool, seed: int, max_drafts: int = 0
) -> dict[tuple[str, int], list[Any]]:
    """Everything that is told of each choice, of requests that come in some order and are sometimes given up."""
    scheduler = SchedulerConfig(
        max_num_batched_tokens=24, max_num_seqs=6, num_speculative_tokens=max_drafts, prompt_lookup_min=1
    )
    executor.async_scheduling = async_scheduling
    engine = Engine(executor, "tiny", EngineConfig(scheduler=scheduler), b"k")
    rng = random.Random(seed)
    waiting = [*requests(), *(msgspec.structs.replace(one, request_id=f"again {one.request_id}") for one in requests())]
    rng.shuffle(waiting)
    given_up = {one.request_id for one in rng.sample(waiting, 4)}
    found: dict[tuple[str, int], list[RequestOutput]] = {}
    while waiting or engine.has_work:
        for _ in range(min(len(waiting), rng.randint(0, 3))):
            engine.submit(waiting.pop())
        for chunk in engine.step():
            found.setdefault((chunk.request_id, chunk.index), []).append(chunk)
            if chunk.request_id in given_up and chunk.start > 3:
                engine.abort(chunk.request_id)
        engine.check()
    engine.step()  # what was begun for nobody
    assert engine.status().num_free_blocks == engine.status().num_blocks
    return {
        key: [
            [token for chunk in chunks for token in chunk.tokens],
            chunks[-1].finish_reason,
            [one for chunk in chunks for one in chunk.logprobs or ()],
            [chunk.prompt_logprobs for chunk in chunks if chunk.prompt_logprobs is not None],
        ]
        for key, chunks in found.items()
        if key[0] not in given_up
    }


@pytest.mark.parametrize(("seed", "max_drafts"), [(0, 0), (1, 0), (2, 0), (3, 2), (4, 5)])
def test_answers_are_the_same(executor: InlineExecutor, seed: int, max_drafts: int) -> None:
    compare(answers(executor, False, seed), answers(executor, True, seed, max_drafts))


def test_answers_of_two_ranks_are_the_same(executor: InlineExecutor, tmp_path: Path) -> None:
    model = config_of(tiny(tmp_path, "llama"), async_scheduling=True)
    with driving(msgspec.structs.replace(model, tensor_parallel_size=2), WORDS) as (ranks, _):
        assert ranks.async_scheduling
        compare(answers(executor, False, 3), answers(ranks, True, 3))
        compare(answers(executor, False, 4), answers(ranks, True, 4, max_drafts=3))


def compare(plain: dict[tuple[str, int], list[Any]], overlapped: dict[tuple[str, int], list[Any]]) -> None:
    assert plain.keys() == overlapped.keys()
    for key, (tokens, reason, logprobs, scores) in plain.items():
        others = overlapped[key]
        assert (others[0], others[1]) == (tokens, reason), key
        assert [one.token for one in others[2]] == [one.token for one in logprobs]
        for one, other in zip(logprobs, others[2], strict=True):
            values, expected = ([x.logprob, *(v for _, v in x.top), *(v for _, v in x.named)] for x in (other, one))
            assert values == pytest.approx(expected, abs=1e-4)
        assert len(others[3]) == len(scores)
        for one, other in zip(scores, others[3], strict=True):
            assert [x.logprob for x in other] == pytest.approx([x.logprob for x in one], abs=1e-4)


def test_a_cpu_computes_one_step_after_the_other(tmp_path: Path) -> None:
    assert not load_executor(config_of(tiny(tmp_path, "llama"))).async_scheduling
