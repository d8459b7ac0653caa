"""In bfloat16 on CPU a row's logits are bitwise the same in any batch, any chunking and on any number of threads.

The same on a GPU, as far as an interpreter can tell: tests/kernels/triton/test_decoder.py.
"""

import random

import msgspec
import pytest
import torch

from configs.schema import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine.engine import Engine
from engine.execution.load import load_executor
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from kernels.kernel_set import load_kernels
from kernels.native.compiler import find_compiler
from tests.engine.model.tiny import CPU, Runner, error, oracle, oracle_logits

KERNELS = load_kernels(CPU, torch.bfloat16)
TOKENS = torch.randint(97, (150,), generator=torch.Generator().manual_seed(3)).tolist()

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="without a C compiler this is not promised")


@pytest.fixture(
    scope="module",
    params=[
        "llama3",
        "smollm2",
        "mistral",
        "qwen3",
        "olmo3",
        "gemma2",
        "gemma3n",
        "gemma4",
        "gemma4 moe",
        "qwen3 moe",
        "llama4",
        "cohere2",
        "deepseek v3",
        "glm 5",
        "longcat flash",
        "minimax",
        "qwen3 next",
        "kimi linear",
        "lfm2",
        "granite hybrid",
        "nemotron h",
        "falcon h1",
        "mimo v2 flash",
        "gpt neox",
        "phi moe",
    ],
)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    oracle(request.param).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def runner(folder):
    return Runner(folder, torch.bfloat16, block_size=16, kernels=KERNELS)


@pytest.fixture
def alone(runner):
    return runner.logits(TOKENS, 1)


@pytest.mark.parametrize("chunk", [3, 7, 64, 150])
def test_chunks_change_nothing(runner, alone, chunk):
    last = [min(start + chunk, 150) - 1 for start in range(0, 150, chunk)]
    assert torch.equal(runner.logits(TOKENS, chunk), alone[last])


def test_neighbors_change_nothing(runner, alone):
    lens = [1 + 9 * s for s in range(16)]
    runner.step([(s, 0, TOKENS[:length]) for s, length in enumerate(lens)])
    decoded = runner.step([(s, length, TOKENS[length : length + 1]) for s, length in enumerate(lens)])
    assert torch.equal(decoded, alone[lens])
    mixed = runner.step([(s, n + 1, TOKENS[n + 1 : n + 2 + s % 3 * 4]) for s, n in enumerate(lens[:15])])
    assert torch.equal(mixed, alone[[n + 1 + s % 3 * 4 for s, n in enumerate(lens[:15])]])


@pytest.mark.parametrize(
    "name",
    [
        "llama3",
        "qwen2 windows",
        "qwen3 biases",
        "phi3",
        "olmo2",
        "olmo3",
        "gemma2",
        "gemma3",
        "gemma3n",
        "gemma4",
        "smollm3",
        "granite",
        "ministral3",
        "cohere2",
        "apertus",
        "hunyuan",
        "qwen3.5",
        "lfm2",
        "nemotron",
        "gpt neox",
        "nanochat",
    ],
)
def test_rounding_errors_are_like_those_of_transformers(name, tmp_path):
    model = oracle(name).bfloat16()
    model.save_pretrained(tmp_path)
    theirs = oracle_logits(model, TOKENS)
    exact = oracle_logits(model.float(), TOKENS)
    for block_size in (16, 4):
        ours = Runner(tmp_path, torch.bfloat16, block_size, KERNELS).logits(TOKENS, 1)
        assert error(ours, exact) < 1.3 * error(theirs, exact)


@pytest.mark.parametrize(
    "name",
    ["qwen3 moe", "gemma4 moe", "olmoe", "mixtral", "gpt oss", "llama4", "glm4 moe", "deepseek v3", "longcat flash"]
    + ["kimi linear", "mimo v2 flash", "kolibri", "phi moe"],
)
def test_rounding_errors_of_experts_are_like_those_of_transformers(name, tmp_path):
    """In the best row: rounding may send a token to another expert, and all that read it have other errors then."""
    model = oracle(name).bfloat16()
    model.save_pretrained(tmp_path)
    theirs = oracle_logits(model, TOKENS)
    exact = oracle_logits(model.float(), TOKENS)
    ours = Runner(tmp_path, torch.bfloat16, 16, KERNELS).logits(TOKENS, 1)
    best = [((out - exact).norm(dim=1) / exact.norm(dim=1)).min() for out in (ours, theirs)]
    assert best[0] < 1.3 * best[1]


def test_threads_change_nothing(runner, alone):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(runner.logits(TOKENS, 50), alone[[49, 99, 149]])
    finally:
        torch.set_num_threads(threads)


ANSWER_LEN = 14


def requests():
    """Prompts of odd lengths, some of which begin alike, to be continued by chance. All log probabilities are told."""
    rng = random.Random(5)
    shared = TOKENS[:50]
    prompts = [shared + rng.choices(range(97), k=n) for n in (1, 13, 40)]
    prompts += [rng.choices(range(97), k=n) for n in (1, 16, 33, 100)]
    sampling = SamplingParams(max_tokens=ANSWER_LEN, seed=11, num_logprobs=97)
    return [
        GenerateRequest(request_id=str(i), model="m", inputs=(TokenSpan(tuple(prompt)),), sampling=sampling)
        for i, prompt in enumerate(prompts)
    ]


def make_engine(folder, **scheduler):
    config = EngineConfig(
        device="cpu",
        num_threads=1,
        deterministic=True,
        scheduler=SchedulerConfig(**scheduler),
        cache=CacheConfig(num_blocks=90),
    )
    executor = load_executor(ModelConfig(served_model_name="m", model=str(folder), engine=config))
    return Engine(executor, "m", config)


def run(engine, asked):
    """id -> [(token, log probabilities)], and how many prompt tokens were cached."""
    for request in asked:
        engine.submit(request)
    answers, num_cached = {request.request_id: [] for request in asked}, 0
    while engine.has_work:
        for chunk in engine.step():
            answers[chunk.request_id] += [(one.token, dict(one.top)) for one in chunk.logprobs or ()]
            num_cached += chunk.cached_tokens
    return answers, num_cached


@pytest.fixture
def expected(folder):
    """Each request alone, on an engine that has seen nothing."""
    return {request.request_id: run(make_engine(folder), [request])[0][request.request_id] for request in requests()}


@pytest.mark.parametrize(
    "scheduler", [{}, {"max_num_batched_tokens": 3}, {"max_num_batched_tokens": 37, "max_num_seqs": 4}]
)
def test_a_deterministic_engine_gives_the_same_logits_in_any_batch_and_chunks(folder, expected, scheduler):
    assert all(len(answer) == ANSWER_LEN and len(answer[0][1]) == 97 for answer in expected.values())
    engine = make_engine(folder, **scheduler)
    assert run(engine, requests())[0] == expected
    again, num_cached = run(engine, requests()[::-1])
    assert again == expected and num_cached > 0


@pytest.mark.parametrize("as_prompt", [True, False], ids=["sent tokens as prompt", "resumed"])
def test_a_deterministic_engine_goes_on_with_the_same_logits(folder, expected, as_prompt):
    engine = make_engine(folder, max_num_batched_tokens=29)
    run(engine, requests()[:3])
    asked, rest = [], {}
    for at, request in enumerate(requests()):
        num_sent = 1 + 2 * at
        sent = tuple(token for token, _ in expected[request.request_id][:num_sent])
        rest[request.request_id] = expected[request.request_id][num_sent:]
        changes = {"inputs": (TokenSpan(request.prompt + sent),)} if as_prompt else {"resume": (sent,)}
        asked.append(msgspec.structs.replace(request, **changes))
    found, num_cached = run(engine, asked)
    # as a prompt they end later
    assert {name: answer[: len(rest[name])] for name, answer in found.items()} == rest
    assert num_cached > 0
