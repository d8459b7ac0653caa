"""The grammar on the road of logits: whatever the sampling, only what it allows."""

import json
import string

import pytest
import torch
from llguidance import LLMatcher

from engine.sampling.sampler import Sampler
from engine.scheduling.scheduler_output import NewSequence, ScheduledSequence, SchedulerOutput
from engine.structured_output.grammar import TokenTable, Vocabulary
from engine.types import Grammar, SamplingParams
from kernels.kernel_set import load_kernels

TOKENS = (b"<end>", *(char.encode() for char in string.printable), b'{"', b'":', b'"}')
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
GRAMMAR = Grammar(LLMatcher.grammar_from_json_schema(SCHEMA, overrides={"whitespace_flexible": False}))


@pytest.fixture(scope="module")
def table() -> TokenTable:
    return TokenTable(Vocabulary(TOKENS, special_ids=(0,), end_ids=(0,)), len(TOKENS))


def answer(
    table: TokenTable, params: SamplingParams, seed: int, grammar: Grammar | None = GRAMMAR
) -> tuple[str, object]:
    """The text of one answer to random logits, alternating with a neighbor that has no grammar."""
    cpu = torch.device("cpu")
    sampler = Sampler(load_kernels(cpu, torch.float32), len(TOKENS), cpu, table)
    noise = torch.Generator().manual_seed(seed)
    starts = (
        NewSequence(0, SamplingParams(max_tokens=1), seed, (1,), ()),
        NewSequence(1, params, seed, (1,), (), grammar),
    )
    output: list[int] = []
    for step in range(200):
        sequences = tuple(ScheduledSequence(i, step, (1,), ((0,),), samples=True) for i in range(2))
        plan = SchedulerOutput(step, sequences, starts if step == 0 else ())
        sampler.update(plan)
        bits = sampler.grammar_bits(plan) if sampler.has_grammar(plan) else None
        result = sampler.sample(plan, torch.randn(2, len(TOKENS), generator=noise) * 3, bits)
        if result.failed and result.failed[1]:
            return "", result.failed[1]
        if result.tokens[1] == 0:
            return b"".join(TOKENS[token] for token in output).decode(), None
        output.append(result.tokens[1])
    raise AssertionError("no end")


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_tokens=99, temperature=1.5, stop_token_ids=(0,)),
        SamplingParams(max_tokens=99, temperature=0.0, stop_token_ids=(0,)),
        SamplingParams(max_tokens=99, temperature=1.0, top_k=2, top_p=0.5, min_p=0.2, stop_token_ids=(0,)),
        SamplingParams(max_tokens=99, presence_penalty=2.0, repetition_penalty=1.5, stop_token_ids=(0,)),
        SamplingParams(max_tokens=99, min_tokens=99, stop_token_ids=(0,)),
        SamplingParams(max_tokens=99, bad_words=((TOKENS.index(b"{"),), (TOKENS.index(b'{"'),)), stop_token_ids=(0,)),
    ],
)
def test_every_answer_satisfies_the_schema(table: TokenTable, params: SamplingParams, seed: int) -> None:
    text, failure = answer(table, params, seed)
    assert failure is None
    document = json.loads(text)
    assert set(document) == {"a", "b"} and isinstance(document["a"], int) and document["b"] in ("x", "y")


def test_a_grammar_that_cannot_be_followed_ends_its_own_request_alone(table: TokenTable) -> None:
    _, failure = answer(table, SamplingParams(max_tokens=9), 0, Grammar("start: nonsense("))
    assert isinstance(failure, str) and failure
