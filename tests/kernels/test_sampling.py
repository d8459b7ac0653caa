import pytest
import torch

from kernels.logit_mask import cpu as logit_mask_cpu
from kernels.logit_mask.reference import add_bias, allow_only, forbid
from kernels.logit_mask.reference import allow_bits as reference_allow_bits
from kernels.logprobs.reference import logprobs
from kernels.penalties.reference import PenaltyEntries, penalties
from kernels.sampling import cpu, reference
from kernels.sampling.reference import keep_min_p, scale_temperature
from tests.kernels.cpus import COMPILERS

INF = torch.inf
COMPILED = {name: cpu.build(compiler) for name, compiler in COMPILERS.items()}
KINDS = {"reference": reference, **COMPILED}


@pytest.fixture(params=KINDS)
def ops(request):
    return KINDS[request.param]


def kept(logits):
    return [set(row.isfinite().nonzero()[:, 0].tolist()) for row in logits]


def naive_order(row):
    return sorted(range(len(row)), key=lambda token: (-row[token].item(), token))


@pytest.fixture
def logits():
    rng = torch.Generator().manual_seed(3)
    rows = torch.randn(6, 101, generator=rng) * 3
    rows[1] = rows[1].round()  # many equals
    rows[2, 50:] = -INF  # masked before
    return rows


@pytest.fixture(params=KINDS)
def allow_bits(request):
    return reference_allow_bits if request.param == "reference" else logit_mask_cpu.build(COMPILERS[request.param])


def test_bits_allow_and_forbid_single_tokens(allow_bits):
    bits = torch.zeros(2, 3, dtype=torch.int32)
    bits[0, 0], bits[0, 2] = 0b101, 0b10
    bits[1] = -1
    assert kept(allow_bits(torch.zeros(2, 70), bits)) == [{0, 2, 65}, set(range(70))]


def test_the_sign_bit_of_a_word_is_a_token(allow_bits):
    bits = torch.tensor([[-(2**31)]], dtype=torch.int32)
    assert kept(allow_bits(torch.zeros(1, 32), bits)) == [{31}]


def test_allowed_ids_limit_only_their_rows():
    out = allow_only(torch.zeros(2, 5), torch.tensor([True, False]), torch.tensor([0, 0]), torch.tensor([1, 3]))
    assert kept(out) == [{1, 3}, set(range(5))]


def test_forbidden_and_biased_entries_are_single():
    rows, tokens = torch.tensor([0, 1]), torch.tensor([2, 0])
    assert kept(forbid(torch.zeros(2, 3), rows, tokens)) == [{0, 1}, {1, 2}]
    out = add_bias(torch.zeros(2, 3), rows, tokens, torch.tensor([1.5, -2.0]))
    assert out.tolist() == [[0, 0, 1.5], [-2, 0, 0]]


def test_penalties_divide_then_subtract():
    out = penalties(
        torch.tensor([[2.0, -2.0, 1.0], [2.0, -2.0, 1.0]]),
        PenaltyEntries(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]), torch.tensor([3.0, 0.0, 1.0])),
        presence_R=torch.tensor([0.5, 0.0]),
        frequency_R=torch.tensor([0.25, 0.5]),
        repetition_R=torch.tensor([2.0, 1.0]),
    )
    assert out.tolist() == [[2 / 2 - 3 * 0.25 - 0.5, -4.0, 1.0], [2.0, -2.0, 0.5]]


def test_temperature_zero_and_one_leave_a_row_alone(logits):
    out = scale_temperature(logits[:3], torch.tensor([0.0, 1.0, 0.5]))
    assert torch.equal(out[:2], logits[:2])
    assert torch.equal(out[2], logits[2] * 2)


def test_top_k_keeps_the_k_first(ops, logits):
    ks = [1, 7, 40, 0, 101, 500]
    naive = [set(naive_order(row)[: k or None]) for row, k in zip(logits, ks, strict=True)]
    naive = [tokens & full for tokens, full in zip(naive, kept(logits), strict=True)]
    assert kept(ops.keep_top_k(logits, torch.tensor(ks))) == naive


def test_top_p_keeps_the_smallest_set_that_reaches_p(ops, logits):
    ps = [0.1, 0.5, 0.9, 1.0, 0.999, 1e-9]
    expected = []
    for row, p in zip(logits, ps, strict=True):
        probs, total, tokens = row.softmax(-1), 0.0, set()
        for token in naive_order(row):
            if (total >= p and p < 1) or not row[token].isfinite():
                break
            tokens.add(token)
            total += probs[token].item()
        expected.append(tokens)
    assert kept(ops.keep_top_p(logits, torch.tensor(ps))) == expected


def test_min_p_is_relative_to_the_most_likely(logits):
    ps = [0.05, 0.5, 0.01, 0.0, 1.0, 0.3]
    probs = logits.softmax(-1)
    bounds = [p * row.max() * (1 - 1e-6) for p, row in zip(ps, probs, strict=True)]
    expected = [
        {t for t in range(101) if row[t] >= bound and row[t] > 0} for row, bound in zip(probs, bounds, strict=True)
    ]
    assert kept(keep_min_p(logits, torch.tensor(ps))) == expected


def test_greedy_takes_the_lowest_id_among_equals(ops):
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0]])
    assert ops.choose(logits, torch.tensor([True]), torch.tensor([7]), torch.tensor([1])).tolist() == [1]


def test_top_k_one_is_greedy_for_every_seed(ops, logits):
    rows, greedy = logits.repeat(4, 1), torch.zeros(24, dtype=torch.bool)
    chosen = ops.choose(
        ops.keep_top_k(rows, torch.ones(24, dtype=torch.int64)), greedy, torch.arange(24), torch.arange(24)
    )
    assert torch.equal(chosen, ops.choose(rows, ~greedy, torch.arange(24), torch.arange(24)))


def test_draws_follow_the_softmax(ops):
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0, -INF]).expand(40_000, -1)
    seeds, positions = torch.arange(40_000) // 200 - 100, torch.arange(40_000) % 200
    tokens = ops.choose(logits, torch.zeros(40_000, dtype=torch.bool), seeds, positions)
    shares = torch.bincount(tokens, minlength=5) / 40_000
    assert (shares - logits[0].softmax(-1)).abs().max() < 0.01
    assert shares[4] == 0


def test_noise_is_gumbel_and_independent_between_tokens_seeds_and_positions(ops):
    noise = ops.gumbel_noise(torch.arange(8), torch.full((8,), 5), 20_000)
    assert abs(noise.mean().item() - 0.5772) < 0.02
    assert abs(noise.var().item() - 1.6449) < 0.05
    later = ops.gumbel_noise(torch.arange(8), torch.full((8,), 6), 20_000)
    lagged = torch.cat((noise[:, :-1], noise[:, 1:]))
    correlations = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in ((noise[0], noise[1]), (noise[0], later[0]))]
    correlations.append(torch.corrcoef(lagged[[0, 8]])[0, 1])
    assert max(abs(c.item()) for c in correlations) < 0.03


def test_a_row_draws_the_same_alone_and_in_a_batch(ops, logits):
    seeds, positions = torch.tensor([1, -(2**63), 2**63 - 1, 0, 5, 5]), torch.tensor([0, 9, 8191, 4, 4, 5])
    sampled = torch.zeros(6, dtype=torch.bool)
    together = ops.choose(logits, sampled, seeds, positions)
    alone = [ops.choose(logits[r, None], sampled[:1], seeds[r, None], positions[r, None]) for r in range(6)]
    assert together.tolist() == [token.item() for token in alone]


def test_logprobs_of_a_row_do_not_depend_on_its_neighbors_or_on_threads():
    logits = torch.randn(7, 49152, generator=torch.Generator().manual_seed(1)) * 4 + 10
    chosen = logits.argmin(-1)
    threads = torch.get_num_threads()
    try:
        told = []
        for count in (1, 2, 6):
            torch.set_num_threads(count)
            told.append(logprobs(logits, chosen, 3))
            rows = [logprobs(logits[r : r + 1], chosen[r : r + 1], 3) for r in range(7)]
            told.append(tuple(torch.cat(one) for one in zip(*rows, strict=True)))
    finally:
        torch.set_num_threads(threads)
    for other in told[1:]:
        assert all(torch.equal(one, same) for one, same in zip(other, told[0], strict=True))


def test_logprobs_are_of_the_untouched_logits(ops, logits):
    chosen = torch.tensor([4, 5, 60, 7, 8, 9])
    values, ids, tops = logprobs(logits, chosen, 5)
    expected = logits.double().log_softmax(-1)
    assert torch.allclose(values.double(), expected[range(6), chosen], atol=1e-5)
    for got, row in zip(ids.tolist(), logits, strict=True):
        assert [row[t] for t in got] == [row[t] for t in naive_order(row)[:5]]
    assert torch.allclose(tops.double(), expected.gather(-1, ids), atol=1e-5)
    assert (tops[:, :-1] >= tops[:, 1:]).all()


@pytest.mark.parametrize("kind", COMPILED)
def test_compiled_noise_is_the_reference_noise(kind):
    seeds, positions = torch.tensor([0, -5, 2**63 - 1]), torch.tensor([0, 8191, 7])
    ours = COMPILED[kind].gumbel_noise(seeds, positions, 50_000)
    assert (ours - reference.gumbel_noise(seeds, positions, 50_000)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", COMPILED)
@pytest.mark.parametrize("spread", [0.0, 0.1, 3.0, 30.0])
def test_compiled_filters_keep_what_the_reference_keeps_of_a_large_vocabulary(kind, spread):
    compiled = COMPILED[kind]
    logits = torch.randn(5, 9_001, generator=torch.Generator().manual_seed(1)) * spread
    for k in (1, 50, 563, 9_000):
        ks = torch.full((5,), k)
        assert torch.equal(compiled.keep_top_k(logits, ks), reference.keep_top_k(logits, ks))
    for p in (1e-6, 0.3, 0.95, 0.9999):
        ps = torch.full((5,), p)
        ours, theirs = kept(compiled.keep_top_p(logits, ps)), kept(reference.keep_top_p(logits, ps))
        assert all(len(a ^ b) <= 1 for a, b in zip(ours, theirs, strict=True))  # sums are rounded at the boundary
