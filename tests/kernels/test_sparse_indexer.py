"""The indexer of sparse attention: which tokens are chosen, and what is written of a token, against plain sums."""

import pytest
import torch

from kernels.paged_attention.spec import AttentionLayout
from kernels.sparse_indexer import cpu, reference
from kernels.sparse_indexer.spec import IndexSpec
from tests.kernels.cpus import COMPILERS

HEADS, DIM, OTHERS = 5, 20, 7
BATCHES = {
    "one token": [(1, 1)],
    "single tokens": [(9, 1), (1, 1), (33, 1), (16, 1), (700, 1)],
    "chunks": [(20, 7), (16, 16), (40, 1), (5, 2)],
}


class Keys:
    """Sequences of (length, queries), and their index keys in a cache whose other numbers and slots are NaN."""

    def __init__(self, batch, dtype=torch.float32, block_size=4, num_padding=2):
        rng = torch.Generator().manual_seed(len(batch))
        self.keys = [torch.randn(length, DIM, generator=rng).to(dtype) for length, _ in batch]
        counts, lens = [count for _, count in batch], [length for length, _ in batch]
        widths = [-(-length // block_size) for length in lens]
        order = torch.randperm(sum(widths) + 3, generator=rng).int()
        self.cache = torch.full((len(order), 1, block_size, OTHERS + DIM), torch.nan, dtype=dtype)
        table = torch.full((len(batch), max(widths)), -1, dtype=torch.int32)
        for s, keys in enumerate(self.keys):
            table[s, : widths[s]] = order[sum(widths[:s]) : sum(widths[: s + 1])]
            for k, key in enumerate(keys):
                self.cache[table[s, k // block_size], 0, k % block_size, OTHERS:] = key
        starts = torch.tensor([0, *torch.tensor(counts).cumsum(0)], dtype=torch.int32)
        self.layout = AttentionLayout(starts, torch.tensor(lens, dtype=torch.int32), table)
        self.queries = torch.randn(sum(counts) + num_padding, HEADS, DIM, generator=rng).to(dtype)
        self.weights = torch.randn(sum(counts) + num_padding, HEADS, generator=rng)

    def choose(self, kernel, top_k):
        return kernel(self.queries, self.weights, self.cache, self.layout, top_k)

    def scores(self):
        """Of each row that belongs to a sequence, those of the tokens that it sees."""
        starts = self.layout.query_starts.tolist()
        for s, keys in enumerate(self.keys):
            for row in range(starts[s], starts[s + 1]):
                seen = keys[: len(keys) - (starts[s + 1] - row) + 1].double()
                yield row, self.weights[row].double() @ (self.queries[row].double() @ seen.T).clamp(min=0)

    def row(self, row, s, position):
        """One row as a batch of its own."""
        rows = slice(row, row + 1)
        alone = object.__new__(Keys)
        alone.queries, alone.weights, alone.cache = self.queries[rows], self.weights[rows], self.cache
        lens = torch.tensor([position + 1], dtype=torch.int32)
        table = self.layout.block_table_SW[s : s + 1].contiguous()
        alone.layout = AttentionLayout(torch.tensor([0, 1], dtype=torch.int32), lens, table)
        return alone


def check_choice(chosen_TK, keys, top_k, tolerance):
    """Each row has the best tokens, in order, but for those whose scores are as good as equal."""
    rows = dict(keys.scores())
    for row, scores in rows.items():
        count = min(top_k, len(scores))
        found = chosen_TK[row, :count].tolist()
        assert found == sorted(set(found)) and found[-1] < len(scores) and not chosen_TK[row, count:].any()
        left_out = [k for k in range(len(scores)) if k not in set(found)]
        assert not left_out or scores[found].min() >= scores[left_out].max() - tolerance
    assert not chosen_TK[len(rows) :].any()


@pytest.mark.parametrize("top_k", [1, 9, 1000])
@pytest.mark.parametrize("batch", BATCHES)
def test_a_query_attends_to_the_tokens_with_the_largest_scores(batch, top_k):
    keys = Keys(BATCHES[batch])
    check_choice(keys.choose(reference.choose_tokens, top_k), keys, top_k, 1e-4)


@pytest.fixture(scope="module", params=COMPILERS)
def compiled(request):
    return cpu.build(COMPILERS[request.param])


@pytest.mark.parametrize("top_k", [1, 9, 1000])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("block_size", [1, 16])
def test_a_compiled_choice_has_the_largest_scores(compiled, batch, top_k, block_size):
    keys = Keys(BATCHES[batch], torch.bfloat16, block_size)
    check_choice(keys.choose(compiled, top_k), keys, top_k, 1e-3)


def test_a_compiled_choice_does_not_depend_on_the_batch(compiled):
    keys = Keys(BATCHES["chunks"], torch.bfloat16)
    whole = keys.choose(compiled, 9)
    for s, (length, count) in enumerate(BATCHES["chunks"]):
        for i in range(count):
            row = int(keys.layout.query_starts[s]) + i
            (alone,) = keys.row(row, s, length - count + i).choose(compiled, 9)
            assert torch.equal(alone, whole[row, : len(alone)])


def test_of_equal_scores_the_first_tokens_are_chosen(compiled):
    keys = Keys([(40, 1)], torch.bfloat16)
    keys.weights.zero_()
    assert keys.choose(compiled, 9)[0].tolist() == list(range(9))


def test_negative_scores_are_ordered_too(compiled):
    keys = Keys([(300, 1)], torch.bfloat16)
    keys.weights = -keys.weights.abs()
    check_choice(keys.choose(compiled, 9), keys, 9, 1e-3)


def check_rotary(index_rotary, dtype=torch.float32, tolerance=1e-5):
    """The keys' norm and rotation, and that of the queries, against complex numbers."""
    rng = torch.Generator().manual_seed(1)
    rope_dim = 6
    angles = torch.randn(9, rope_dim // 2, generator=rng)
    weight, bias = torch.randn(DIM, generator=rng), torch.randn(DIM, generator=rng)
    spec = IndexSpec(torch.cat((angles.cos(), angles.sin()), -1), weight, bias, 1e-6, 4)
    queries = torch.randn(3, HEADS, DIM, generator=rng).to(dtype)
    keys = torch.randn(3, 2 * DIM, generator=rng).to(dtype)[:, :DIM]  # part of wider rows
    cache, before = torch.full((2, 1, 4, OTHERS + DIM), torch.nan, dtype=dtype), queries.clone()
    positions = torch.tensor([5, 8, 2])
    index_rotary(queries, keys, cache, positions, torch.tensor([6, -1, 1]), spec)

    def rotated(x, position):
        half = rope_dim // 2
        out = torch.complex(x[..., :half], x[..., half:rope_dim]) * torch.polar(torch.ones(half), angles[position])
        return torch.cat((out.real, out.imag, x[..., rope_dim:]), -1)

    for row in range(3):
        expected = rotated(before[row].float(), positions[row])
        assert torch.allclose(queries[row].float(), expected, atol=tolerance, rtol=tolerance)
    for row, (block, slot) in {0: (1, 2), 2: (0, 1)}.items():
        normed = torch.nn.functional.layer_norm(keys[row].float(), (DIM,), weight, bias, 1e-6)
        expected = rotated(normed, positions[row])
        assert torch.allclose(cache[block, 0, slot, OTHERS:].float(), expected, atol=tolerance, rtol=tolerance)
    assert cache.isnan().sum() == cache.numel() - 2 * DIM


def test_index_keys_are_normed_rotated_and_written_where_they_belong():
    check_rotary(reference.index_rotary)
