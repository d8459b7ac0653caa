"""Beam search in the engine against beam search over whole token lists."""

import math
import random
from hashlib import blake2b

import pytest
import torch

from configs.schema import CacheConfig, EngineConfig, SchedulerConfig
from engine.engine import Engine
from engine.errors import RequestError
from engine.sampling.sampler import Sampler
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput
from engine.types import BeamParams, GenerateRequest, RequestOutput, SamplingParams, TokenLogprob, TokenSpan
from kernels.kernel_set import load_kernels
from tests.engine.toy import ToyExecutor

VOCAB_SIZE = 12
STOPS = (0, 1)


def logprobs_after(tokens: list[int | None]) -> list[float]:
    """A made-up model: log probabilities that depend on every token before."""
    rng = random.Random(blake2b(repr(tokens).encode(), digest_size=8).digest())
    weights = [rng.random() ** 3 + 0.01 for _ in range(VOCAB_SIZE)]
    total = sum(weights)
    return [math.log(weight / total) for weight in weights]


class BeamToyExecutor(ToyExecutor):
    vocab_size = VOCAB_SIZE

    def execute_model(self, scheduled: SchedulerOutput) -> ModelOutput:
        super().execute_model(scheduled)
        logprobs = []
        for piece in scheduled.sequences:
            if piece.samples:
                stop = piece.start + len(piece.tokens)
                known = [self.slots[at] for at in self.where(piece, stop)[0]]
                ranked = sorted(enumerate(logprobs_after(known)), key=lambda one: (-one[1], one[0]))
                logprobs.append(TokenLogprob(ranked[0][0], ranked[0][1], tuple(ranked)))
        return ModelOutput(tuple(one.token for one in logprobs), tuple(logprobs))


class SampledExecutor(ToyExecutor):
    """The same model before the real sampler."""

    vocab_size = VOCAB_SIZE

    def __init__(self, num_blocks: int) -> None:
        super().__init__(num_blocks)
        cpu = torch.device("cpu")
        self._sampler = Sampler(load_kernels(cpu, torch.float32), VOCAB_SIZE, cpu)

    def execute_model(self, scheduled: SchedulerOutput) -> ModelOutput:
        super().execute_model(scheduled)
        self._sampler.update(scheduled)
        rows = [torch.empty(0, VOCAB_SIZE)]
        for piece in scheduled.sequences:
            if piece.samples:
                known = [self.slots[at] for at in self.where(piece, piece.start)[0]]
                rows.append(torch.tensor([logprobs_after([*known, *piece.tokens])]))
        return self._sampler.sample(scheduled, torch.cat(rows))


def filtered_after(asked: GenerateRequest, output: list[int]) -> list[float]:
    """Log probabilities of what bans, bias and the presence penalty leave."""
    sampling = asked.sampling
    scores = logprobs_after([*asked.prompt, *output])
    for token, value in sampling.logit_bias:
        scores[token] += value
    for token in set(output):
        scores[token] -= sampling.presence_penalty
    for *before, last in sampling.bad_words:
        if before == output[len(output) - len(before) :]:
            scores[last] = -math.inf
    if sampling.allowed_token_ids is not None:
        scores = [one if token in sampling.allowed_token_ids else -math.inf for token, one in enumerate(scores)]
    total = sum(map(math.exp, scores))
    return [one - math.log(total) for one in scores]


def search(asked: GenerateRequest) -> list[tuple[list[int], str]]:
    """The answers from the definition, best first."""
    assert asked.beam is not None
    width, penalty = asked.beam.width, asked.beam.length_penalty
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    answers: list[tuple[float, list[int], str]] = []
    while True:
        children = [
            (total + logprob, parent, token)
            for parent, (total, output) in enumerate(beams)
            for token, logprob in enumerate(filtered_after(asked, output))
        ]
        children.sort(key=lambda one: (-one[0], one[1], one[2]))
        following: list[tuple[float, list[int]]] = []
        for rank, (total, parent, token) in enumerate(children):
            if len(following) == width:
                break
            output = [*beams[parent][1], token]
            if token not in STOPS:
                following.append((total, output))
            elif rank < width and len(output) > asked.sampling.min_tokens:
                answers = sorted([*answers, (total / len(output) ** penalty, output, "stop")], key=lambda a: -a[0])[
                    :width
                ]
        beams = following
        if len(beams[0][1]) >= asked.sampling.max_tokens:
            answers += [(total / len(output) ** penalty, output, "length") for total, output in beams]
            break
        best = beams[0][0] / len(beams[0][1]) ** penalty
        if len(answers) == width and (asked.beam.early_stopping or best <= answers[-1][0]):
            break
    answers.sort(key=lambda one: -one[0])
    return [(output, reason) for _, output, reason in answers[: asked.n]]


def ask(name: str, prompt: list[int], beam: BeamParams, n: int, max_tokens: int = 9, **more: object) -> GenerateRequest:
    sampling = SamplingParams(max_tokens=max_tokens, stop_token_ids=STOPS, **more)  # type: ignore[arg-type]
    return GenerateRequest(
        request_id=name, model="toy", inputs=(TokenSpan(tuple(prompt)),), sampling=sampling, n=n, beam=beam
    )


@pytest.mark.parametrize("sharing", [True, False])
@pytest.mark.parametrize(("block_size", "num_blocks"), [(4, 500), (1, 500), (4, 40), (16, 12)])
def test_beams_are_those_of_the_definition(block_size: int, num_blocks: int, sharing: bool) -> None:
    rng = random.Random(block_size + num_blocks)
    toy = BeamToyExecutor(num_blocks, block_size)
    scheduler = SchedulerConfig(max_num_batched_tokens=16, max_num_seqs=9)
    engine = Engine(toy, "toy", EngineConfig(scheduler=scheduler, cache=CacheConfig(enable_prefix_caching=sharing)))
    asked = {}
    for i in range(12):
        width = rng.choice([1, 2, 4])
        beam = BeamParams(width, rng.choice([0.0, 1.0, 2.0]), rng.random() < 0.5)
        prompt = [rng.randrange(2, VOCAB_SIZE) for _ in range(rng.randint(1, 20))]
        asked[f"r{i}"] = ask(f"r{i}", prompt, beam, rng.randint(1, width), min_tokens=rng.choice([0, 3]))
        engine.submit(asked[f"r{i}"])
    chunks: dict[str, list[RequestOutput]] = {name: [] for name in asked}
    for _ in range(5000):
        if not engine.has_work:
            break
        for chunk in engine.step():
            chunks[chunk.request_id].append(chunk)
        engine.check()
    assert not engine.has_work, "the searches do not come to an end"
    for name, one in asked.items():
        assert [chunk.index for chunk in chunks[name]] == list(range(one.n))
        assert [(list(chunk.tokens), chunk.finish_reason) for chunk in chunks[name]] == search(one)
    assert engine.status().num_free_blocks == num_blocks


@pytest.mark.parametrize(
    "more",
    [
        {"allowed_token_ids": (2, 3, 4, 5, 6, 7, 8, 0)},
        {"logit_bias": ((3, 2.0), (4, -100.0))},
        {"bad_words": ((5,), (6, 7), (2, 2, 3))},
        {"presence_penalty": 1.5},
    ],
)
def test_bans_bias_and_penalties_hold_in_beams(more: dict[str, object]) -> None:
    rng = random.Random(1)
    changed = 0
    for i in range(20):
        prompt = [rng.randrange(2, VOCAB_SIZE) for _ in range(6)]
        asked = ask(f"r{i}", prompt, BeamParams(3), n=2, **more)
        answers = [(list(one.tokens), one.finish_reason) for one in Engine(SampledExecutor(60), "toy").generate(asked)]
        assert answers == search(asked)
        changed += answers != search(ask(f"r{i}", prompt, BeamParams(3), n=2))
    assert changed > 10


def test_beams_share_all_but_their_last_block() -> None:
    toy = BeamToyExecutor(num_blocks=200)
    engine = Engine(toy, "toy")
    asked = ask("a", list(range(2, 12)) * 4, BeamParams(4), n=1, max_tokens=12, min_tokens=12)
    engine.submit(asked)
    while engine.has_work:
        engine.step()
        engine.check()
    assert toy.num_computed <= 40 + 4 * 12, "tokens were computed again"


def test_beams_tell_log_probabilities_and_can_be_aborted() -> None:
    engine = Engine(BeamToyExecutor(num_blocks=200), "toy")
    asked = ask("a", [5, 6], BeamParams(3), n=2, num_logprobs=2)
    (best, second) = list(engine.generate(asked))
    for chunk in (best, second):
        known = [5, 6]
        assert chunk.logprobs is not None
        for token, logprob in zip(chunk.tokens, chunk.logprobs, strict=True):
            assert logprob.token == token and len(logprob.top) == 2
            assert logprob.logprob == pytest.approx(logprobs_after([*known])[token])
            known.append(token)
    engine.submit(ask("b", [5, 6], BeamParams(3), n=2))
    engine.step()
    engine.step()
    engine.abort("b")
    engine.check()
    assert engine.status().num_free_blocks == 200
    with pytest.raises(RequestError):
        engine.submit(ask("c", [5], BeamParams(1), n=2))
