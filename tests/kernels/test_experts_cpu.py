"""Experts and routers in C, for every instruction set of this machine, against the reference of the same layers."""

import pytest
import torch

from kernels.experts import cpu
from kernels.experts.reference import Expert, Experts
from kernels.experts.routing import RouterSpec, route_by_scores
from kernels.gated_activation import cpu as gated_activation_cpu
from kernels.linear import cpu as linear_cpu
from tests.kernels.cpus import COMPILERS, EMULATED
from tests.kernels.test_experts import make
from tests.kernels.test_quantized_linear import COMPILED, random_ints

HERE = [name for name in COMPILERS if name not in EMULATED]  # what another machine's emulator runs has other addresses


@pytest.fixture(scope="module", params=HERE)
def compiler(request):
    return COMPILERS[request.param]


def pair(linear, compiler, experts, activation="silu"):
    """Of the same matrices: in C, and the reference."""
    gate = gated_activation_cpu.build(compiler)
    return cpu.build(compiler, linear).experts(experts, activation), Experts(experts, activation, linear, gate)


def routed_rows(num_rows, num_experts, top_k, dim, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x_TM = torch.randn(num_rows, dim, generator=rng).bfloat16()
    ids_TK = torch.rand(num_rows, num_experts, generator=rng).argsort(1)[:, :top_k].contiguous()
    return x_TM, ids_TK, torch.rand(num_rows, top_k, generator=rng)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "clamped", "relu2"])
@pytest.mark.parametrize("biased", [True, False])
def test_dense_experts_have_the_bits_of_the_reference(compiler, activation, biased):
    experts = make(5, 42, 40, torch.bfloat16, biased=biased)  # neither is a whole number of tiles
    if activation == "relu2":
        experts = [one._replace(gate_up=one.gate_up[:40]) for one in experts]
        experts = [one._replace(gate_up_bias=one.gate_up_bias[:40]) for one in experts] if biased else experts
    ours, reference = pair(linear_cpu.build(compiler), compiler, experts, activation)
    for num_rows in (0, 1, 3, 70):
        given = routed_rows(num_rows, 5, 3, 42)
        assert torch.equal(ours(*given), reference(*given)), num_rows


@pytest.mark.parametrize("scales", [torch.float32, torch.float16])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", [kind for kind in COMPILED if kind.removesuffix(", int8") in HERE])
def test_quantized_experts_have_the_bits_of_the_reference(kind, bits, scales):
    matrices = [random_ints(rows, 128, bits=bits).with_scales(scales) for rows in (256, 128) * 4]
    experts = [Expert(gate_up, down) for gate_up, down in zip(matrices[::2], matrices[1::2], strict=True)]
    ours, reference = pair(COMPILED[kind], COMPILERS[kind.removesuffix(", int8")], experts)
    for num_rows in (1, 40):
        given = routed_rows(num_rows, 4, 2, 128)
        assert torch.equal(ours(*given), reference(*given)), num_rows


def test_what_no_expert_takes_and_what_is_added(compiler):
    ours, reference = pair(linear_cpu.build(compiler), compiler, make(3, 32, 32, torch.bfloat16))
    x_TM, ids_TK, weights_TK = routed_rows(6, 5, 4, 32)  # experts 3 and 4 there are not
    added_TM = torch.randn(6, 32).bfloat16()
    assert torch.equal(ours(x_TM, ids_TK, weights_TK, added_TM), reference(x_TM, ids_TK, weights_TK, added_TM))
    assert not ours(x_TM, torch.full_like(ids_TK, -1), weights_TK).any()


def test_threads_and_neighbors_change_nothing(compiler):
    ours, _ = pair(linear_cpu.build(compiler), compiler, make(3, 48, 32, torch.bfloat16))
    x_TM, ids_TK, weights_TK = routed_rows(120, 3, 2, 48)
    whole, threads = ours(x_TM, ids_TK, weights_TK), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(ours(x_TM, ids_TK, weights_TK), whole)
    finally:
        torch.set_num_threads(threads)
    for rows in (slice(0, 1), slice(7, 12), slice(50, 120)):
        assert torch.equal(ours(x_TM[rows], ids_TK[rows], weights_TK[rows]), whole[rows])


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize("renormalizes", [True, False])
@pytest.mark.parametrize(("groups", "kept"), [(1, 1), (4, 1), (4, 2), (6, 4)])
@pytest.mark.parametrize("group_score", ["max", "top2"])
def test_routers_choose_as_the_reference(compiler, scoring, renormalizes, groups, kept, group_score):
    rng = torch.Generator().manual_seed(groups + kept)
    route = cpu.build(compiler, linear_cpu.build(compiler)).route_by_scores
    for correction in (None, torch.randn(24, generator=rng) * 0.5):
        spec = RouterSpec(3, scoring, renormalizes, correction, groups, kept, group_score, scale=1.5)
        logits = torch.randn(40, 24, generator=rng) * 3
        ids, weights = route(logits, spec)
        expected_ids, expected = route_by_scores(logits, spec)
        assert torch.equal(ids, expected_ids)
        assert torch.allclose(weights, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scoring", ["sigmoid", "sparse_mixer"])
def test_what_the_router_in_c_does_not_know_is_the_references(compiler, scoring):
    route = cpu.build(compiler, linear_cpu.build(compiler)).route_by_scores
    rng = torch.Generator().manual_seed(5)
    correction = torch.randn(24, generator=rng) * 2
    spec = RouterSpec(2, scoring, correction_E=correction, corrects_logits=True, jitter=0.2)
    logits = torch.randn(40, 24, generator=rng)
    (ids, weights), (expected_ids, expected) = route(logits, spec), route_by_scores(logits, spec)
    assert torch.equal(ids, expected_ids)
    assert torch.allclose(weights, expected, rtol=1e-5, atol=1e-7)


def test_of_equal_experts_the_first_comes_first(compiler):
    route = cpu.build(compiler, linear_cpu.build(compiler)).route
    ids, weights = route(torch.tensor([[0.0, 2.0, 1.0, 2.0]]), 3, True)
    assert ids.tolist() == [[1, 3, 2]]
    assert weights.sum().item() == pytest.approx(1.0)
    assert route(torch.empty(0, 4), 2, False)[0].shape == (0, 2)
