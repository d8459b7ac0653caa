"""What Triton compiles anew takes seconds, in the middle of serving: which launches are of the same code."""

import random
from dataclasses import replace

import msgspec
import pytest
import torch

pytest.importorskip("triton")

from configs.schema import EngineConfig, SchedulerConfig
from engine.engine import Engine
from engine.execution.cascade_timing import LEAST_CASE, AttentionTimer
from engine.execution.cuda_graphs import CudaGraphs, LargestStep
from engine.execution.warm_up import launch_all, warm_up
from engine.model.block_tables import BlockTables
from engine.model.cascade import CascadeThresholds
from engine.scheduling.scheduler_output import ScheduledSequence, SchedulerOutput
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from kernels.experts.reference import Expert
from kernels.kernel_set import triton_kernels
from scripts.bench.gpu.random_model import BLOCK_SIZE, TINY, RandomModel
from tests.aot.no_card import launches

CPU = torch.device("cpu")


def test_graphs_of_all_sizes_and_widths_are_of_the_same_code():
    model = RandomModel(TINY, triton_kernels(), 8, torch.bfloat16, CPU)
    graphs = CudaGraphs(
        lambda batch: model.decoder.hidden(batch, model.kv),
        lambda run: run,
        LargestStep(40, 2048),
        block_size=BLOCK_SIZE,
        device=CPU,
    )
    with launches() as found:
        known = None
        for num_rows in (40, 1, 2, 3, 8, 17):
            for num_blocks in (2048, 17, 60):
                piece = ScheduledSequence(0, num_blocks * BLOCK_SIZE - 1, (1,), ((0,) * num_blocks,), True)
                scheduled = SchedulerOutput(0, (piece,) * num_rows)
                graphs.hidden(scheduled, BlockTables.of(scheduled, BLOCK_SIZE))
                known = known or set(found)
    assert found == known


def test_any_number_of_log_probabilities_is_of_the_same_code():
    logits, chosen = torch.randn(2, 5000), torch.zeros(2, dtype=torch.int64)
    with launches() as found:
        for num_top in (0, 1, 5, 16, 20):
            triton_kernels().logprobs(logits, chosen, num_top)
    assert len(found) == 2


@pytest.mark.parametrize("max_drafts", [0, 2])
@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize(("deterministic", "four_bits"), [(False, False), (True, False), (False, True)])
def test_the_start_launches_what_was_compiled_ahead_of_it(deterministic, four_bits, graphs, max_drafts):
    """The timing of shared prefixes, and the warm-up with what was found, of other numbers of rows."""
    model = RandomModel(TINY, _choosing(triton_kernels(deterministic)), 3000, torch.bfloat16, CPU, four_bits=four_bits)
    config = SchedulerConfig(
        max_num_seqs=70, max_num_batched_tokens=200, num_speculative_tokens=max_drafts, prompt_lookup_min=1
    )
    max_rows = 70 * (1 + max_drafts) if graphs else 0
    with launches() as ahead:
        executor = model.executor_of(max_rows, None if deterministic else LEAST_CASE)
        model.sampler.warm_up()
        launch_all(executor, config)
    executor.close()
    with launches() as found:
        if not deterministic:
            assert AttentionTimer(model.decoder, model.kv, 512, 70, CPU, lambda run: run)(8, 256) is not None
        executor = model.executor_of(max_rows, None if deterministic else CascadeThresholds(((32, 384),)))
        model.sampler.warm_up()
        warm_up(executor, config)
    executor.close()
    assert len(ahead) > 10 and found == ahead


@pytest.fixture
def poisoned():
    """Memory that nobody has written holds the largest integers: whoever takes one for an index is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3, dtype=torch.int64).tolist() == [torch.iinfo(torch.int64).max] * 3
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("max_drafts", [0, 2])
def test_what_is_launched_ahead_is_no_index_of_anything(poisoned, max_drafts):
    """On a card it would be an access to memory that is not there, and the end of the process."""
    model = RandomModel(TINY, triton_kernels(), 300, torch.bfloat16, CPU)
    config = SchedulerConfig(
        max_num_seqs=20, max_num_batched_tokens=100, num_speculative_tokens=max_drafts, prompt_lookup_min=1
    )
    executor = model.executor_of(60, LEAST_CASE)
    pair = [Expert(torch.zeros(96, 32), torch.zeros(32, 48)) for _ in range(4)]
    with launches() as found:
        model.sampler.warm_up()
        launch_all(executor, config)
        routed = triton_kernels().route(torch.zeros(7, 4), 2, True)
        triton_kernels().experts(pair)(torch.zeros(7, 32), *routed)
    executor.close()
    assert {"_decode", "_ragged", "_route", "_combine"} <= {variant.name for variant in found}


def _choosing(kernels):
    def choose(logits_RV, *more):
        kernels.choose(logits_RV, *more)
        return torch.zeros(len(logits_RV), dtype=torch.int64)  # its own output nobody wrote

    return replace(kernels, choose=choose)


def _ask(rng: random.Random, number: int) -> GenerateRequest:
    """Anything that changes which kernels run."""
    sampling = SamplingParams(
        max_tokens=rng.randint(1, 20),
        temperature=rng.choice((0.0, 0.7, 1.0)),
        top_p=rng.choice((1.0, 0.9)),
        top_k=rng.choice((0, 7)),
        min_p=rng.choice((0.0, 0.1)),
        frequency_penalty=rng.choice((0.0, 0.5)),
        repetition_penalty=rng.choice((1.0, 1.2)),
        logit_bias=rng.choice(((), ((5, 1.0),))),
        allowed_token_ids=rng.choice((None, (1, 2, 3))),
        bad_words=rng.choice(((), ((7,),))),
        num_logprobs=rng.choice((None, 0, 3, 20)),
        num_prompt_logprobs=rng.choice((None, None, 2)),
    )
    prompt = (1,) * rng.choice((0, 0, 300)) + tuple(rng.randrange(300) for _ in range(rng.randint(1, 100)))
    return GenerateRequest(request_id=str(number), model="random", inputs=(TokenSpan(prompt),), sampling=sampling)


@pytest.mark.parametrize("max_drafts", [0, 2])
@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize(("deterministic", "four_bits"), [(False, False), (True, False), (False, True), (True, True)])
def test_serving_launches_what_was_compiled_at_the_start(deterministic, four_bits, graphs, max_drafts):
    kernels = _choosing(triton_kernels(deterministic))
    odd = msgspec.structs.replace(TINY, vocab_size=301)  # most rows of logits begin at no multiple of 16 bytes
    model = RandomModel(odd, kernels, 3000, torch.bfloat16, CPU, four_bits=four_bits)
    config = SchedulerConfig(
        max_num_seqs=70, max_num_batched_tokens=200, num_speculative_tokens=max_drafts, prompt_lookup_min=1
    )
    executor = model.executor_of(
        70 * (1 + max_drafts) if graphs else 0, cascade=None if deterministic else CascadeThresholds(((8, 256),))
    )
    rng = random.Random(2)
    with launches() as found:
        model.sampler.warm_up()
        warm_up(executor, config)
        known = set(found)
        executor.async_scheduling = True
        engine = Engine(executor, "random", EngineConfig(scheduler=config))
        for number in range(120):
            engine.submit(_ask(rng, number))
        while engine.has_work:
            engine.step()
    executor.close()
    assert {variant.name for variant in found} == {variant.name for variant in known}
    assert found == known
