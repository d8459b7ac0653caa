import pytest
import torch

from kernels.experts.reference import route
from kernels.experts.routing import RouterSpec, route_by_scores


def one_row(logits: list[float], spec: RouterSpec) -> tuple[list[int], list[float]]:
    """The slow and plain way."""
    x = torch.tensor(logits, dtype=torch.float64)
    scores = (1 / (1 + (-x).exp()) if spec.scoring == "sigmoid" else x.softmax(0)).tolist()
    correction = [0.0] * len(scores) if spec.correction_E is None else spec.correction_E.tolist()
    rank = [score + extra for score, extra in zip(scores, correction, strict=True)]
    size = len(scores) // spec.num_groups
    groups = [list(range(first, first + size)) for first in range(0, len(scores), size)]
    top = 1 if spec.group_score == "max" else 2
    groups.sort(key=lambda group: -sum(sorted((rank[expert] for expert in group), reverse=True)[:top]))
    allowed = [expert for group in groups[: spec.groups_per_token] for expert in group]
    chosen = sorted(sorted(allowed), key=lambda expert: -rank[expert])[: spec.top_k]
    total = sum(scores[expert] for expert in chosen) if spec.renormalizes else 1.0
    return chosen, [scores[expert] / total * spec.scale for expert in chosen]


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize("renormalizes", [True, False])
@pytest.mark.parametrize(("groups", "taken"), [(1, 1), (4, 1), (4, 2), (6, 4)])
@pytest.mark.parametrize("group_score", ["max", "top2"])
@pytest.mark.parametrize("corrected", [True, False])
def test_experts_are_chosen_and_weighted_as_one_by_one(scoring, renormalizes, groups, taken, group_score, corrected):
    rng = torch.Generator().manual_seed(groups + taken)
    correction = torch.randn(12, generator=rng) * 0.5 if corrected else None
    spec = RouterSpec(2, scoring, renormalizes, correction, groups, taken, group_score, scale=1.5)
    logits = torch.randn(40, 12, generator=rng)
    ids, weights = route_by_scores(logits, spec)
    expected = [one_row(row, spec) for row in logits.tolist()]
    assert ids.tolist() == [chosen for chosen, _ in expected]
    assert torch.allclose(weights, torch.tensor([share for _, share in expected]), atol=1e-6)


def test_without_extras_it_is_the_plain_router():
    spec = RouterSpec(3, renormalizes=True)
    logits = torch.randn(9, 6)
    assert spec.is_plain
    for ours, plain in zip(route_by_scores(logits, spec), route(logits, 3, True), strict=True):
        assert torch.allclose(ours, plain)


def test_no_row_routes_nothing():
    ids, weights = route_by_scores(torch.empty(0, 6), RouterSpec(2, "sigmoid", num_groups=3, groups_per_token=2))
    assert ids.shape == weights.shape == (0, 2)


def test_corrections_of_logits_decide_the_choice_and_leave_the_weights_alone():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    spec = RouterSpec(2, "sigmoid", correction_E=torch.tensor([2.5, 0.0, 0.0, -9.0]), corrects_logits=True)
    ids, weights = route_by_scores(logits, spec)
    assert ids.tolist() == [[0, 2]]
    assert torch.allclose(weights, logits[:, [0, 2]].sigmoid())


def test_sparse_mixing_weights_an_expert_among_those_with_logits_near_its_own():
    logits = torch.tensor([[2.0, 1.9, 1.0, -4.0], [0.5, 3.0, 1.0, 0.98]])
    ids, weights = route_by_scores(logits, RouterSpec(2, "sparse_mixer", jitter=0.05))
    assert ids.tolist() == [[0, 1], [1, 2]]
    near = [[[0, 1], [1]], [[1], [2, 3]]]  # at most a tenth below, and not taken before
    expected = [[logits[row, ones].softmax(0)[0].item() for ones in both] for row, both in enumerate(near)]
    assert torch.allclose(weights, torch.tensor(expected))


def test_sparse_mixing_gives_a_row_the_same_bits_alone_and_in_a_batch():
    logits, spec = torch.randn(37, 16), RouterSpec(2, "sparse_mixer", jitter=0.2)
    alone = torch.cat([route_by_scores(row[None], spec)[1] for row in logits])
    assert torch.equal(route_by_scores(logits, spec)[1], alone)
