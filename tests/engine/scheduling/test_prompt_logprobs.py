"""The log probabilities of a prompt's tokens: complete, right and told once, whatever happens on the way."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM

from configs.schema import EngineConfig, SchedulerConfig
from engine.engine import Engine
from engine.execution.load import load_executor
from engine.sampling.sampler import Sampler
from engine.scheduling.scheduler_output import ScheduledSequence, SchedulerOutput
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from tests.engine.parallel.test_ranks import config_of, tiny
from tests.engine.sampling.test_sampler import CPU, KERNELS, VOCAB, start
from tests.engine.toy import VOCAB_SIZE, ToyExecutor, recompute, request, score


def expected(prompt):
    return tuple(score(list(prompt[:at]), prompt[at]) for at in range(1, len(prompt)))


def run(engine):
    chunks = {}
    while engine.has_work:
        for chunk in engine.step():
            chunks.setdefault((chunk.request_id, chunk.index), []).append(chunk)
        engine.check()
    return chunks


@pytest.mark.parametrize("budget", [3, 40, 512])
@pytest.mark.parametrize("num_tokens", [120, 4096])  # the smaller pool takes blocks away
def test_every_prompt_is_scored_once_and_whole(num_tokens, budget):
    rng = random.Random(budget)
    toy = ToyExecutor(num_tokens // 4, 4)
    engine = Engine(toy, "toy", EngineConfig(scheduler=SchedulerConfig(max_num_batched_tokens=budget)), b"k")
    shared, asked = [rng.randrange(VOCAB_SIZE) for _ in range(70)], {}
    for i in range(14):
        prompt = shared[: rng.choice([0, 40, 70])] + [rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 20))]
        wants = {"num_prompt_logprobs": 1} if i % 3 else {}
        asked[f"r{i}"] = request(f"r{i}", prompt, max_tokens=9, n=rng.choice([1, 2]), **wants)
        engine.submit(asked[f"r{i}"])
    chunks = run(engine)
    for name, one in asked.items():
        for index in range(one.n):
            told = [chunk.prompt_logprobs for chunk in chunks[name, index]]
            wants = one.sampling.num_prompt_logprobs is not None and index == 0
            assert told == [expected(one.prompt) if wants else None] + [None] * 8
            assert [token for chunk in chunks[name, index] for token in chunk.tokens] == recompute(one, index)[0]
    assert 0 < toy.most_scored <= 64
    assert engine.scheduler.blocks.pool.num_free == toy.num_blocks


def test_an_answer_that_moved_does_not_tell_them_again():
    asked = request("a", list(range(20)), max_tokens=6, num_prompt_logprobs=0)
    output, _ = recompute(asked)
    moved = GenerateRequest(
        request_id="a",
        model="toy",
        inputs=(TokenSpan(asked.prompt),),
        sampling=asked.sampling,
        resume=(tuple(output[:2]),),
    )
    toy = ToyExecutor()
    chunks = list(Engine(toy, "toy").generate(moved))
    assert [chunk.prompt_logprobs for chunk in chunks] == [None] * 4 and toy.most_scored == 0


def test_a_prompt_of_one_token_has_none():
    (chunk,) = Engine(ToyExecutor(), "toy").generate(request("a", [5], max_tokens=1, num_prompt_logprobs=2))
    assert chunk.prompt_logprobs == ()


def test_scores_are_raw_and_leave_the_choice_alone():
    sampler = Sampler(KERNELS, VOCAB, CPU)
    starts = (start(0, temperature=0.0, num_prompt_logprobs=2, logit_bias=((9, 90.0),)), start(1, temperature=0.0))
    sequences = (
        ScheduledSequence(1, 0, (1,), ((0,),), True),
        ScheduledSequence(0, 0, (4, 5, 6), ((1,),), True, scored=(5, 6)),
    )
    sampler.update(SchedulerOutput(0, (), starts))
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(3))
    result = sampler.sample(SchedulerOutput(0, sequences), logits)
    assert result.tokens == (int(logits[0].argmax()), 9)
    logprobs = logits.log_softmax(-1)
    for row, token, entry in zip((1, 2), (5, 6), result.scores[0], strict=True):
        order = logits[row].argsort(descending=True).tolist()
        assert (entry.token, entry.rank) == (token, order.index(token) + 1)
        assert entry.logprob == pytest.approx(logprobs[row, token].item(), abs=1e-5)
        assert [one for one, _ in entry.top] == order[:2]
        assert [value for _, value in entry.top] == pytest.approx(logprobs[row, order[:2]].tolist(), abs=1e-5)
    unfinished = SchedulerOutput(1, (ScheduledSequence(0, 0, (4, 5), ((1,),), False, scored=(5, 6)),))
    assert sampler.sample(unfinished, logits[1:3]).scores == result.scores


def test_a_real_models_are_those_of_transformers(tmp_path):
    executor = load_executor(config_of(tiny(tmp_path, "llama"), 1))
    engine = Engine(executor, "tiny", EngineConfig(scheduler=SchedulerConfig(max_num_batched_tokens=7)), b"k")
    prompt = [(i * 37) % 203 for i in range(40)]
    sampling = SamplingParams(max_tokens=3, num_prompt_logprobs=2)
    for name in ("cold", "warm"):
        asked = GenerateRequest(request_id=name, model="tiny", inputs=(TokenSpan(tuple(prompt)),), sampling=sampling)
        told = next(chunk.prompt_logprobs for chunk in engine.generate(asked))
        with torch.inference_mode():
            logits = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)(torch.tensor([prompt])).logits
        logprobs = logits[0].log_softmax(-1)
        for at, entry in enumerate(told, start=1):
            assert entry.token == prompt[at]
            assert entry.logprob == pytest.approx(logprobs[at - 1, prompt[at]].item(), abs=1e-4)
        assert len(told) == len(prompt) - 1
    executor.close()
