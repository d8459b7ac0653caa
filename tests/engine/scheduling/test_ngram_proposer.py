"""Guessed tokens change how many steps an answer takes, and nothing else."""

import json
import random
from pathlib import Path

import pytest
from llguidance import LLMatcher

from configs.schema import EngineConfig, SchedulerConfig
from engine.engine import Engine
from engine.execution.load import load_executor
from engine.scheduling.ngram_proposer import NgramProposer
from engine.types import (
    GenerateRequest,
    Grammar,
    ReasoningBudget,
    RepetitionLimit,
    RequestOutput,
    SamplingParams,
    TokenSpan,
)
from tests.engine.parallel.test_ranks import config_of, tiny
from tests.engine.scheduling import test_async_scheduling as every_kind


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_guess_is_what_followed_the_same_tokens_the_last_time(size: int) -> None:
    rng = random.Random(size)
    for _ in range(20):
        drafts, tokens = NgramProposer(size), list[int]()
        for _ in range(60):
            tokens += [rng.randrange(4) for _ in range(rng.randint(1, 3))]
            ends = [at for at in range(size, len(tokens)) if tokens[at - size : at] == tokens[-size:]]
            expected = tokens[ends[-1] : ends[-1] + 5] if ends and len(tokens) >= size else []
            assert list(drafts.propose([*tokens, -1], len(tokens), 5)) == expected
            assert len(drafts.propose(tokens, len(tokens), 0)) == 0


def answers(
    executor: object, asked: list[GenerateRequest], max_drafts: int
) -> tuple[dict[str, list[RequestOutput]], int]:
    config = SchedulerConfig(num_speculative_tokens=max_drafts, prompt_lookup_min=2)
    engine = Engine(executor, "tiny", EngineConfig(scheduler=config))  # type: ignore[arg-type]
    for one in asked:
        engine.submit(one)
    chunks: dict[str, list[RequestOutput]] = {one.request_id: [] for one in asked}
    num_steps = 0
    while engine.has_work:
        num_steps += 1
        for chunk in engine.step():
            chunks[chunk.request_id].append(chunk)
        engine.check()
    return chunks, num_steps


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.0},
        {"temperature": 0.0, "num_logprobs": 3},
        {"temperature": 0.7, "top_p": 0.5, "top_k": 5, "seed": 3},
        {"temperature": 0.0, "logit_bias": ((7, 50.0),), "bad_words": ((9,),)},
        {"temperature": 0.0, "stop_token_ids": (7,), "min_tokens": 9, "logit_bias": ((7, 3.0),)},
        {"temperature": 0.0, "frequency_penalty": 0.5},
        {"temperature": 0.0, "presence_penalty": 0.2, "repetition_penalty": 1.1},
        {"temperature": 0.9, "frequency_penalty": 0.1, "seed": 4, "min_p": 0.1},
        {"temperature": 0.0, "bad_words": ((7, 9), (3, 4, 5))},
        {"temperature": 0.0, "repetition": RepetitionLimit(1, 5, 4)},
        {"temperature": 0.0, "thinking": ReasoningBudget(20, (5, 6))},
        {"temperature": 0.0, "num_prompt_logprobs": 1, "num_logprobs": 0},
    ],
)
def test_a_model_that_is_guessed_says_the_same(tmp_path: Path, sampling: dict[str, object]) -> None:
    executor = load_executor(config_of(tiny(tmp_path, "llama"), 1))
    rng = random.Random(0)
    asked = [
        GenerateRequest(
            request_id=str(i),
            model="tiny",
            inputs=(TokenSpan(tuple([rng.randrange(203) for _ in range(4)] * rng.randint(1, 8))),),
            sampling=SamplingParams(max_tokens=60, **sampling),  # type: ignore[arg-type]
        )
        for i in range(4)
    ]
    plain, num_plain = answers(executor, asked, 0)
    guessed, num_guessed = answers(executor, asked, 4)
    for name in plain:
        assert joined(guessed[name]) == joined(plain[name])
        assert told(guessed[name]) == pytest.approx(told(plain[name]), abs=1e-4)
        assert guessed[name][-1].finish_reason == plain[name][-1].finish_reason
    if num_plain > 30 and sampling["temperature"] == 0 and not any("penalty" in name for name in sampling):
        assert num_guessed < 0.8 * num_plain, "no guess was right"


def joined(chunks: list[RequestOutput]) -> list[int]:
    return [token for chunk in chunks for token in chunk.tokens]


def told(chunks: list[RequestOutput]) -> list[float]:
    """Every log probability, in its order."""
    of_tokens = [one for chunk in chunks for one in chunk.logprobs or ()]
    of_prompt = [one.logprob for chunk in chunks for one in chunk.prompt_logprobs or ()]
    return [*of_prompt, *(one.logprob for one in of_tokens), *(value for one in of_tokens for _, value in one.top)]


@pytest.mark.parametrize("max_drafts", [1, 3, 7])
def test_whatever_a_token_depends_on_drafts_change_nothing(tmp_path: Path, max_drafts: int) -> None:
    """Grammars, budgets, penalties, bans, beams, several choices, together in one batch."""
    executor = load_executor(every_kind.config_of(tiny(tmp_path, "llama")), every_kind.WORDS)
    asked = every_kind.requests()
    plain, guessed = (answers(executor, asked, drafts)[0] for drafts in (0, max_drafts))
    for name in plain:
        assert by_choice(guessed[name]) == by_choice(plain[name])


def by_choice(chunks: list[RequestOutput]) -> dict[int, tuple[list[int], list[str | None]]]:
    """Tokens and the last finish reason of each choice."""
    choices = {chunk.index: [one for one in chunks if one.index == chunk.index] for chunk in chunks}
    return {index: (joined(own), [own[-1].finish_reason]) for index, own in choices.items()}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_within_a_grammar_drafts_are_right_too(tmp_path: Path, temperature: float) -> None:
    """A list of ten objects, of which only a few letters are free: the rest is what came before."""
    one = {"type": "object", "properties": {"name": {"enum": ["x", "y"]}}, "required": ["name"]}
    schema = {"type": "array", "items": {**one, "additionalProperties": False}, "minItems": 10, "maxItems": 10}
    grammar = Grammar(LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False}))
    executor = load_executor(every_kind.config_of(tiny(tmp_path, "llama")), every_kind.WORDS)
    sampling = SamplingParams(
        max_tokens=200, temperature=temperature, seed=1, presence_penalty=0.3, stop_token_ids=(every_kind.END,)
    )
    prompt = (TokenSpan((1, 2, 3)),)
    asked = [GenerateRequest(request_id="a", model="tiny", inputs=prompt, sampling=sampling, grammar=grammar)]
    plain, num_plain = answers(executor, asked, 0)
    guessed, num_guessed = answers(executor, asked, 6)
    assert joined(guessed["a"]) == joined(plain["a"])
    assert len(json.loads(bytes(joined(plain["a"])[:-1]))) == 10 and num_guessed < 0.5 * num_plain
