"""In bfloat16 on CPU a row's logits are bitwise the same in any batch, any chunking and on any number of threads."""

import pytest
import torch

from kernels.kernel_set import load_kernels
from kernels.native.compiler import find_compiler
from tests.engine.model.tiny import CPU, Runner, error, oracle, oracle_logits

KERNELS = load_kernels(CPU, torch.bfloat16)
TOKENS = torch.randint(97, (150,), generator=torch.Generator().manual_seed(3)).tolist()

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="without a C compiler this is not promised")


@pytest.fixture(scope="module", params=["llama3", "smollm2", "mistral", "qwen3"])
def runner(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    oracle(request.param).save_pretrained(folder)
    return Runner(folder, torch.bfloat16, block_size=16, kernels=KERNELS)


@pytest.fixture
def alone(runner):
    return runner.logits(TOKENS, 1)


@pytest.mark.parametrize("chunk", [3, 7, 64, 150])
def test_chunks_change_nothing(runner, alone, chunk):
    last = [min(start + chunk, 150) - 1 for start in range(0, 150, chunk)]
    assert torch.equal(runner.logits(TOKENS, chunk), alone[last])


def test_neighbours_change_nothing(runner, alone):
    lens = [1 + 9 * s for s in range(16)]
    runner.step([(s, 0, TOKENS[:length]) for s, length in enumerate(lens)])
    decoded = runner.step([(s, length, TOKENS[length : length + 1]) for s, length in enumerate(lens)])
    assert torch.equal(decoded, alone[lens])
    mixed = runner.step([(s, n + 1, TOKENS[n + 1 : n + 2 + s % 3 * 4]) for s, n in enumerate(lens[:15])])
    assert torch.equal(mixed, alone[[n + 1 + s % 3 * 4 for s, n in enumerate(lens[:15])]])


@pytest.mark.parametrize("name", ["llama3", "qwen2 windows", "qwen3 biases"])
def test_rounding_errors_are_like_those_of_transformers(name, tmp_path):
    model = oracle(name).bfloat16()
    model.save_pretrained(tmp_path)
    theirs = oracle_logits(model, TOKENS)
    exact = oracle_logits(model.float(), TOKENS)
    for block_size in (16, 4):
        ours = Runner(tmp_path, torch.bfloat16, block_size, KERNELS).logits(TOKENS, 1)
        assert error(ours, exact) < 1.3 * error(theirs, exact)


def test_threads_change_nothing(runner, alone):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(runner.logits(TOKENS, 50), alone[[49, 99, 149]])
    finally:
        torch.set_num_threads(threads)
