"""Single entries, log probabilities and embeddings."""

import pytest
import torch

from kernels.embedding import reference as embedding_reference
from kernels.embedding.triton import embedding
from kernels.logit_mask import reference as mask_reference
from kernels.logit_mask import triton as mask
from kernels.logprobs import reference as logprobs_reference
from kernels.logprobs.triton import logprobs
from kernels.penalties import reference as penalties_reference
from kernels.penalties.triton import penalties

INF = torch.inf


@pytest.fixture(params=[0, 1, 300])
def entries(request):
    """Rows and tokens of so many logits of 3 rows of 150 tokens."""
    picks = torch.randperm(450, generator=torch.Generator().manual_seed(2))[: request.param]
    return picks // 150, picks % 150


@pytest.fixture
def logits():
    return torch.randn(3, 150, generator=torch.Generator().manual_seed(1)) * 3


def test_entries_are_forbidden(logits, entries):
    before = logits.clone()
    assert torch.equal(mask.forbid(logits, *entries), mask_reference.forbid(before, *entries))
    assert torch.equal(logits, before)


def test_entries_get_a_bias(logits, entries):
    before, bias = logits.clone(), torch.randn(entries[0].shape)
    assert torch.equal(mask.add_bias(logits, *entries, bias), mask_reference.add_bias(before, *entries, bias))
    assert torch.equal(logits, before)


@pytest.mark.parametrize("limited", [[True, False, True], [False] * 3])
def test_limited_rows_keep_their_entries_alone(logits, entries, limited):
    arguments = logits, torch.tensor(limited), *entries
    assert torch.equal(mask.allow_only(*arguments), mask_reference.allow_only(*arguments))


def test_penalties_are_the_references(logits, entries):
    counts = torch.randint(0, 4, entries[0].shape).float()
    presence, frequency, repetition = torch.tensor([[0.5, 0, -1], [0.25, 0.5, 0], [1.3, 1, 0.7]])
    arguments = logits, penalties_reference.PenaltyEntries(*entries, counts), presence, frequency, repetition
    before = logits.clone()
    assert torch.allclose(penalties(*arguments), penalties_reference.penalties(*arguments), rtol=1e-6, atol=1e-6)
    assert torch.equal(logits, before)


def test_a_stride_between_logits_is_no_matter(logits, entries):
    wide = torch.stack((logits, logits), -1)[..., 0]
    assert not wide.is_contiguous()
    assert torch.equal(mask.forbid(wide, *entries), mask.forbid(logits, *entries))


@pytest.mark.parametrize("vocab_size", [1, 31, 101, 9000, 20_000])
def test_log_probabilities_are_the_references(vocab_size):
    logits = torch.randn(4, vocab_size, generator=torch.Generator().manual_seed(3)) * 3 - 200
    logits[1, vocab_size // 3 + 1 :] = -INF
    logits[2] = torch.randperm(vocab_size, generator=torch.Generator().manual_seed(4)) + 7.0
    chosen = torch.tensor([0, 0, vocab_size - 1, vocab_size // 2])
    for num_top in (0, 5, 20):
        ours, theirs = logprobs(logits, chosen, num_top), logprobs_reference.logprobs(logits, chosen, num_top)
        told = theirs[2].isfinite()  # of what is not possible the reference names any
        assert torch.equal(ours[1][told], theirs[1][told]) and ours[1].shape == theirs[1].shape
        for one, same in ((ours[0], theirs[0]), (ours[2], theirs[2])):
            assert torch.allclose(one, same, rtol=1e-6, atol=1e-5)


def test_top_tokens_are_in_order_and_equals_by_id():
    logits = torch.full((2, 9000), -INF)
    logits[0, [8999, 17, 8500, 40]] = torch.tensor([2.0, 1.0, 1.0, 3.0])
    logits[1] = 0.0
    logits[1, :3] = -0.0
    chosen, ids, values = logprobs(logits, torch.tensor([17, 5]), 6)
    assert ids.tolist() == [[40, 8999, 17, 8500, 0, 1], [0, 1, 2, 3, 4, 5]]
    expected = logits.double().log_softmax(-1)
    assert torch.allclose(values.double(), expected.gather(-1, ids), atol=1e-5)
    assert torch.allclose(chosen.double(), expected[[0, 1], [17, 5]], atol=1e-5)


def test_many_top_tokens_are_given_too():
    logits = torch.randn(2, 100, generator=torch.Generator().manual_seed(5))
    _, ids, _ = logprobs(logits, torch.tensor([1, 2]), 70)
    assert torch.equal(ids, logits.sort(-1, descending=True).indices[:, :70])


def test_log_probabilities_of_a_row_do_not_depend_on_its_neighbors():
    logits = torch.randn(3, 9000, generator=torch.Generator().manual_seed(6)) * 4
    chosen = logits.argmin(-1)
    together = logprobs(logits, chosen, 3)
    for r in range(3):
        alone = logprobs(logits[r : r + 1], chosen[r : r + 1], 3)
        assert all(torch.equal(one[0], all_[r]) for one, all_ in zip(alone, together, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("model_dim", [1, 96, 2500])
def test_embeddings_are_the_rows_of_the_weight(model_dim, dtype):
    weight = torch.randn(11, model_dim).to(dtype)
    for tokens in (torch.tensor([3, 0, 10, 3]), torch.empty(0, dtype=torch.int64)):
        assert torch.equal(embedding(weight, tokens), embedding_reference.embedding(weight, tokens))
