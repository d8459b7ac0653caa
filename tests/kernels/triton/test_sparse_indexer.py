"""The Triton kernels of the indexer, in the interpreter, against the reference and plain sums."""

import pytest
import torch

from kernels.sparse_indexer.triton import choose_tokens, index_rotary
from tests.kernels.test_sparse_indexer import BATCHES, Keys, check_choice, check_rotary


@pytest.mark.parametrize("top_k", [1, 9, 1000])
@pytest.mark.parametrize("batch", BATCHES)
def test_a_query_attends_to_the_tokens_with_the_largest_scores(batch, top_k):
    keys = Keys(BATCHES[batch], block_size=16)
    check_choice(keys.choose(choose_tokens, top_k), keys, top_k, 1e-4)


def test_many_rows_are_scored_in_parts(monkeypatch):
    monkeypatch.setattr("kernels.sparse_indexer.triton.MOST_SCORES", 100)
    keys = Keys(BATCHES["chunks"], torch.bfloat16)
    check_choice(keys.choose(choose_tokens, 9), keys, 9, 1e-2)


def test_a_choice_does_not_depend_on_the_batch():
    keys = Keys(BATCHES["chunks"])
    whole = keys.choose(choose_tokens, 9)
    for s, (length, count) in enumerate(BATCHES["chunks"]):
        row = int(keys.layout.query_starts[s])
        (alone,) = keys.row(row, s, length - count).choose(choose_tokens, 9)
        assert torch.equal(alone, whole[row, : len(alone)])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_index_keys_are_normed_rotated_and_written_where_they_belong(dtype, tolerance):
    check_rotary(index_rotary, dtype, tolerance)
