"""Routing on a small simulated fleet: a fleet that knows its prefixes against one that does not."""

from statistics import fmean

import pytest

from engine.engine import Engine
from scripts.bench.fleet import Arrival, Hardware, Workload, capacity, requests_of, simulate
from scripts.bench.plot import distribution_svg
from scripts.bench.routing import POLICIES
from tests.engine.toy import ToyExecutor, request

HARDWARE = Hardware()
WORKLOAD = Workload(num_requests=500, num_prefixes=25)


def arrivals_at(load: float, num_replicas: int = 8) -> list[Arrival]:
    return requests_of(WORKLOAD, load * num_replicas * capacity(HARDWARE, WORKLOAD), HARDWARE.block_size)


@pytest.mark.parametrize("load", [0.1, 0.75])
def test_cost_halves_the_first_token_of_power_of_two_at_least(load: float) -> None:
    arrivals = arrivals_at(load)
    by_cost = simulate(POLICIES["cost"], 8, arrivals, HARDWARE)
    by_two = simulate(POLICIES["power of two"], 8, arrivals, HARDWARE)
    assert fmean(by_cost.first_token_s) * 2 < fmean(by_two.first_token_s)
    assert by_cost.cached_tokens > by_two.cached_tokens


@pytest.mark.parametrize("load", [0.05, 0.2, 0.5, 0.9])
def test_nobody_waits_beside_an_idle_replica_for_nothing(load: float) -> None:
    """Who is placed where others wait, beside an idle replica, has the first token there a step later at most."""
    outcome = simulate(POLICIES["cost"], 8, arrivals_at(load), HARDWARE)
    assert outcome.num_unwise == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_everybody_is_answered_and_nothing_is_cached_that_could_not_be(policy: str) -> None:
    outcome = simulate(POLICIES[policy], 8, arrivals_at(0.5), HARDWARE)
    # at least the step that computes the last prompt token, and the way there and back
    assert min(outcome.first_token_s) >= HARDWARE.step_s + HARDWARE.token_s + 2 * HARDWARE.network_s
    assert 0 < outcome.cached_tokens <= outcome.sharable_tokens < outcome.prompt_tokens


def test_one_replica_is_the_same_under_every_policy() -> None:
    arrivals = arrivals_at(0.5, num_replicas=1)[:100]
    outcomes = [simulate(routing, 1, arrivals, HARDWARE).first_token_s for routing in POLICIES.values()]
    assert all(one == outcomes[0] for one in outcomes)


def test_the_fleet_can_do_what_capacity_says_without_prefixes() -> None:
    workload = Workload(num_requests=3000, num_prefixes=1, prefix_len=(1, 1), seed=3)
    arrivals = requests_of(workload, 1e6, HARDWARE.block_size)  # all at once
    outcome = simulate(POLICIES["cost"], 2, arrivals, HARDWARE)
    assert 0.85 < workload.num_requests / outcome.wall_s / (2 * capacity(HARDWARE, workload)) < 1.05


def test_the_engine_counts_a_shared_prefix_once_in_its_queue() -> None:
    engine = Engine(ToyExecutor(block_size=4), "toy", cache_key=b"k")
    shared = list(range(12))
    engine.submit(request("a", [*shared, 20], max_tokens=1))
    assert engine.status().num_prefill_tokens == 13
    engine.submit(request("b", [*shared, 21, 22], max_tokens=1))
    engine.submit(request("c", [30] * 5, max_tokens=1))
    assert engine.status().num_prefill_tokens == 13 + 2 + 5
    engine.abort("c")
    assert engine.status().num_prefill_tokens == 13 + 2
    while engine.has_work:
        engine.step()
        engine.check()
    assert engine.executor.num_computed == 13 + 2  # type: ignore[attr-defined]
    assert engine.status().num_prefill_tokens == 0


def test_a_plot_is_well_formed_and_shows_every_name() -> None:
    from xml.etree import ElementTree

    drawn = distribution_svg("t", "s", {"one": [0.1, 0.2, 3.0], "two": [0.5]})
    root = ElementTree.fromstring(drawn)
    texts = {element.text for element in root.iter() if element.tag.endswith("text")}
    assert {"one", "two", "0.1 s", "10 s"} <= texts
