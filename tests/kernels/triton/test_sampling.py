import pytest
import torch
import triton
import triton.language as tl

from kernels.logit_mask import reference as mask_reference
from kernels.logit_mask.triton import allow_bits
from kernels.sampling import reference
from kernels.sampling.triton import _uniform, choose, gumbel_noise

SEEDS = torch.tensor([1, -(2**63), 2**63 - 1, 0, 5, 5])
POSITIONS = torch.tensor([0, 9, 8191, 4, 4, 5])


@pytest.mark.parametrize("vocab_size", [31, 70, 5000])
def test_bits_allow_tokens(vocab_size):
    logits = torch.randn(3, vocab_size)
    bits = torch.randint(-(2**31), 2**31, (3, -(-vocab_size // 32)), dtype=torch.int64).to(torch.int32)
    assert torch.equal(allow_bits(logits, bits), mask_reference.allow_bits(logits, bits))


@triton.jit
def write_uniform(seeds, positions, out, V: tl.constexpr, BLOCK_V: tl.constexpr):
    row = tl.program_id(0)
    token = tl.arange(0, BLOCK_V)
    uniform = _uniform(tl.load(seeds + row), tl.load(positions + row), token)
    tl.store(out + row * V + token, uniform, mask=token < V)


def test_uniform_numbers_are_the_references():
    out = torch.full((6, 3000), torch.nan)
    write_uniform[6,](SEEDS, POSITIONS, out, V=3000, BLOCK_V=4096)
    noise = -(-torch.log1p(-out)).log()  # as the reference makes it of its own
    assert torch.equal(noise, reference.gumbel_noise(SEEDS, POSITIONS, 3000))


def test_noise_is_the_references_but_for_the_logarithm():
    noise = gumbel_noise(SEEDS, POSITIONS, 3000)
    assert torch.allclose(noise, reference.gumbel_noise(SEEDS, POSITIONS, 3000), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("vocab_size", [1, 101, 9000])
def test_tokens_are_the_references(vocab_size):
    logits = torch.randn(6, vocab_size) * 3
    logits[1] = logits[1].round()  # many equals
    logits[2, vocab_size // 2 :] = -torch.inf
    logits[3, : vocab_size // 2] = -torch.inf
    for greedy in (torch.tensor([True, True, False, False, True, False]), torch.ones(6, dtype=torch.bool)):
        ours = choose(logits, greedy, SEEDS, POSITIONS)
        assert torch.equal(ours, reference.choose(logits, greedy, SEEDS, POSITIONS))
        alone = [choose(logits[r, None], greedy[r, None], SEEDS[r, None], POSITIONS[r, None]) for r in range(6)]
        assert torch.equal(ours, torch.cat(alone))


def test_the_lowest_id_among_equals():
    logits = torch.zeros(1, 9000)
    logits[0, [4200, 4500, 8500]] = 3.0
    assert choose(logits, torch.tensor([True]), SEEDS[:1], POSITIONS[:1]).tolist() == [4200]


def test_a_row_of_nothing_gives_its_first_token():
    logits = torch.full((1, 5000), -torch.inf)
    assert choose(logits, torch.tensor([False]), SEEDS[:1], POSITIONS[:1]).tolist() == [0]
