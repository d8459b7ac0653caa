"""What is read of a server, and what counters of two samples say."""

import json
from typing import Any

import pytest

from scripts.manta.top.rates import Rates, kv_use, rates_of
from scripts.manta.top.sample import Sample, ServerGoneError, sample_of
from serve_app.api.status import ModelStatus, StatusList

STATUS: dict[str, Any] = {
    "model": "toy",
    "max_model_len": 512,
    "num_running": 2,
    "num_waiting": 1,
    "num_blocks": 100,
    "num_free_blocks": 25,
    "first_token_s": 0.25,
    "num_generated_tokens": 1000,
    "num_prompt_tokens": 400,
    "num_cached_tokens": 100,
}
FLEET: dict[str, Any] = {
    "model": "toy",
    "replicas": [
        {"replica_id": "r1", "state": "running", "engine": STATUS},
        {"replica_id": "r2", "state": "starting", "engine": None},
    ],
    "num_migrations": 3,
    "num_unplaced": 4,
    "autoscaling": {"target_replicas": 2, "wanted": {}},
}


def sample(at_s: float = 0.0, metrics: str = "", load: bytes = b"", fleet: Any = None, **changed: Any) -> Sample:
    status = {name: value for name, value in {**STATUS, **changed}.items() if value is not None}
    return sample_of({"data": [status], "fleet": fleet or []}, load, metrics.encode(), at_s)


def test_replicas_states_and_migrations_are_those_of_the_fleet() -> None:
    (model,) = sample(fleet=[FLEET], load=b'{"server_load": 7}').models
    assert [(one.replica_id, one.state, one.engine is None) for one in model.replicas] == [
        ("r1", "running", False),
        ("r2", "starting", True),
    ]
    assert (model.num_migrations, model.num_unplaced, model.target_replicas) == (3, 4, 2)
    assert sample(load=b'{"server_load": 7}').open_requests == 7


def test_a_model_without_a_replica_is_in_the_fleet_alone() -> None:
    found = sample_of({"data": [], "fleet": [{"model": "asleep"}]}, b"", b"", 0.0)
    assert [(one.model, one.engine, one.replicas) for one in found.models] == [("asleep", None, ())]


def test_tokens_per_second_are_those_between_two_samples() -> None:
    before, now = sample(10.0), sample(12.0, num_generated_tokens=1500)
    assert rates_of("toy", now, before).tokens_s == 250.0
    assert rates_of("toy", now, None).tokens_s is None


def test_the_hit_rate_is_that_of_the_prompts_since_and_of_all_time_without_any() -> None:
    before = sample()
    assert rates_of("toy", sample(1.0, num_prompt_tokens=500, num_cached_tokens=190), before).hit_rate == 0.9
    assert rates_of("toy", sample(1.0), before).hit_rate == rates_of("toy", before, None).hit_rate == 0.25


def test_an_engine_that_started_again_has_no_negative_rate() -> None:
    rates = rates_of("toy", sample(1.0, num_generated_tokens=5, num_prompt_tokens=10, num_cached_tokens=5), sample())
    assert (rates.tokens_s, rates.hit_rate) == (None, 0.5)


def test_what_a_status_lacks_is_taken_from_the_metrics_or_left_out() -> None:
    text = 'vllm:generation_tokens_total{model_name="to\\"y"} %s\nvllm:prompt_tokens_total{model_name="to\\"y"} 9.0\n'
    missing = {"num_generated_tokens": None, "num_blocks": None, "num_cached_tokens": None, "model": 'to"y'}
    before, now = sample(metrics=text % 10.0, **missing), sample(2.0, metrics=text % 30, **missing)
    assert rates_of('to"y', now, before) == Rates(10.0, None)
    engines = [one.models[0].engine for one in (now, sample())]
    assert [kv_use(engine) if engine else -1 for engine in engines] == [None, 0.75]


@pytest.mark.parametrize(
    "status",
    [
        None,
        [],
        {},
        {"data": 3},
        {"data": [{}]},
        {"data": [{"model": "a", "num_running": "many"}]},
        {"data": [], "fleet": [{"model": "a", "replicas": [{}]}]},
    ],
)
def test_a_status_of_another_server_is_said_to_be_one(status: Any) -> None:
    with pytest.raises(ServerGoneError, match="of another server"):
        sample_of(status, b"<html>", b"\xff", 0.0)


def test_it_reads_the_fields_that_the_server_writes() -> None:
    """Renamed fields of the API would be shown as missing ones, silently."""
    numbers = {name: 1 for name in ModelStatus.model_fields if name not in ("model", "collective", "kernels")}
    status = StatusList(data=[ModelStatus(model="toy", collective="", kernels="", **numbers)])
    engine = sample_of(json.loads(status.model_dump_json()), b"", b"", 0.0).models[0].engine
    assert engine is not None and all(getattr(engine, name) == 1 for name in engine.__struct_fields__)
