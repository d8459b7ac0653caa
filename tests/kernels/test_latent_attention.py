"""Latent attention and what is written for it: against plain sums, over shuffled blocks full of NaN elsewhere."""

import pytest
import torch

from kernels.kernel_set import load_kernels
from kernels.latent_attention import cpu
from kernels.latent_attention.reference import latent_attention
from kernels.latent_attention.spec import LatentSpec
from kernels.latent_rotary.reference import latent_rotary
from kernels.latent_rotary.spec import LatentRotarySpec
from kernels.paged_attention.spec import AttentionLayout
from tests.kernels.cpus import COMPILERS

CPU = torch.device("cpu")
RANK, ROPE_DIM, HEADS = 40, 8, 11
BATCHES = {
    "one token": [(1, 1)],
    "single tokens": [(9, 1), (1, 1), (33, 1), (16, 1), (17, 1)],
    "chunks": [(20, 7), (16, 16), (40, 1), (5, 2)],
}


class Latents:
    """Sequences of (length, queries), and their rows in a cache whose unused slots hold NaN."""

    def __init__(self, batch, dtype=torch.float32, block_size=4, num_padding=2):
        rng = torch.Generator().manual_seed(len(batch))
        dim = RANK + ROPE_DIM
        self.rows = [torch.randn(length, dim, generator=rng).to(dtype) for length, _ in batch]
        counts = [count for _, count in batch]
        widths = [-(-length // block_size) for length, _ in batch]
        order = torch.randperm(sum(widths) + 3, generator=rng).int()
        self.cache = torch.full((len(order), 1, block_size, dim), torch.nan, dtype=dtype)
        table = torch.full((len(batch), max(widths)), -1, dtype=torch.int32)
        for s, rows in enumerate(self.rows):
            table[s, : widths[s]] = order[sum(widths[:s]) : sum(widths[: s + 1])]
            for k, row in enumerate(rows):
                self.cache[table[s, k // block_size], 0, k % block_size] = row
        starts = torch.tensor([0, *torch.tensor(counts).cumsum(0)], dtype=torch.int32)
        lens = torch.tensor([length for length, _ in batch], dtype=torch.int32)
        self.layout = AttentionLayout(starts, lens, table)
        self.queries = torch.randn(sum(counts) + num_padding, HEADS, dim, generator=rng).to(dtype)
        self.spec = LatentSpec(0.2, RANK)

    def attend(self, kernel):
        return kernel(self.queries, self.cache, self.layout, self.spec)

    def expected(self):
        out = torch.zeros(len(self.queries), HEADS, RANK, dtype=torch.float64)
        starts = self.layout.query_starts.tolist()
        for s, rows in enumerate(self.rows):
            for i in range(starts[s], starts[s + 1]):
                seen = rows[: len(rows) - (starts[s + 1] - i) + 1].double()
                weights = (self.queries[i].double() @ seen.T * 0.2).softmax(-1)
                out[i] = weights @ seen[:, :RANK]
        return out


def error(out, expected):
    assert not out.isnan().any()
    return ((out.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("batch", BATCHES)
def test_a_query_sums_the_latents_of_its_past(batch):
    latents = Latents(BATCHES[batch])
    out = latents.attend(latent_attention)
    assert error(out, latents.expected()) < 1e-5 and not out[-2:].any()


@pytest.fixture(scope="module", params=COMPILERS)
def compiled(request):
    return cpu.build(COMPILERS[request.param])


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("block_size", [2, 16])
def test_a_compiled_query_sums_the_latents_of_its_past(compiled, batch, block_size):
    latents = Latents(BATCHES[batch], torch.bfloat16, block_size)
    out = latents.attend(compiled)
    assert error(out, latents.expected()) < 1e-2 and not out[-2:].any()


def test_a_compiled_query_does_not_depend_on_its_batch(compiled):
    latents = Latents(BATCHES["chunks"], torch.bfloat16)
    whole = latents.attend(compiled)
    for s, (length, count) in enumerate(BATCHES["chunks"]):
        for i in range(count):
            row = int(latents.layout.query_starts[s]) + i
            alone = AttentionLayout(
                torch.tensor([0, 1], dtype=torch.int32),
                torch.tensor([length - count + i + 1], dtype=torch.int32),
                latents.layout.block_table_SW[s : s + 1].contiguous(),
            )
            out = compiled(latents.queries[row : row + 1].contiguous(), latents.cache, alone, latents.spec)
            assert torch.equal(out[0], whole[row])


def test_rows_are_normed_rotated_and_written_where_they_belong():
    rng = torch.Generator().manual_seed(1)
    dim, half = RANK + ROPE_DIM, ROPE_DIM // 2
    queries, kv = torch.randn(3, HEADS, dim, generator=rng), torch.randn(3, dim, generator=rng)
    weight, angles = torch.randn(RANK, generator=rng), torch.randn(9, half, generator=rng)
    cache = torch.full((2, 1, 4, dim), torch.nan)
    before, positions = queries.clone(), torch.tensor([5, 8, 2])
    spec = LatentRotarySpec(torch.cat((angles.cos(), angles.sin()), -1), weight, 1e-6)
    latent_rotary(queries, kv, cache, positions, torch.tensor([6, -1, 1]), spec)

    def rotated(x, position):
        turns = torch.polar(torch.ones(half), angles[position])
        out = torch.complex(x[..., :half], x[..., half:]) * turns
        return torch.cat((out.real, out.imag), -1)

    for row, (block, slot) in {0: (1, 2), 2: (0, 1)}.items():
        latent, key = kv[row, :RANK], kv[row, RANK:]
        normed = latent / (latent.square().mean() + 1e-6).sqrt() * weight
        expected = torch.cat((normed, rotated(key, positions[row])))
        assert torch.allclose(cache[block, 0, slot], expected, atol=1e-5)
    assert cache.isnan().sum() == 6 * dim
    assert torch.equal(queries[..., :RANK], before[..., :RANK])
    for row in range(3):
        assert torch.allclose(queries[row, :, RANK:], rotated(before[row, :, RANK:], positions[row]), atol=1e-5)


def test_each_head_has_a_matrix_of_its_own():
    for dtype, bound in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        kernels = load_kernels(CPU, dtype)
        weight, x = torch.randn(3, 20, 12).to(dtype), torch.randn(5, 3, 16).to(dtype)[..., :12]
        expected = torch.einsum("thi,hoi->tho", x.double(), weight.double())
        assert error(kernels.head_linear(weight)(x), expected) < bound
