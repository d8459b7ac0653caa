"""How many replicas a load needs: on recorded loads, and live with Serve."""

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve

from cluster.autoscaling import Policy, load_of, wanted_replicas
from cluster.deploy import application
from configs.load import load_args
from engine.types import EngineStatus
from tests.cluster.echo_app import build_echo_app, load_toy_engine, no_ranks
from tests.engine.toy import recompute, request
from tests.within import within

TARGETS = (16.0, 0.8, 2.0)


def load(sequences: float = 0.0, cache_use: float = 0.0, first_token_s: float = 0.0) -> dict[str, float]:
    return {"sequences": sequences, "cache_use": cache_use, "first_token_s": first_token_s}


@pytest.mark.parametrize(
    ("loads", "wanted"),
    [
        ([load()], 0),
        ([load(sequences=16)], 1),
        ([load(sequences=40)], 2.5),
        ([load(sequences=8), load(sequences=8)], 1),
        ([load(sequences=1, cache_use=0.8), load(cache_use=0.8)], 2),
        ([load(sequences=4, first_token_s=1.9)], 0.25),
        ([load(sequences=4, first_token_s=3.0), load(sequences=1)], 3),
        ([load(sequences=4, first_token_s=60.0)], 2),
        ([load(first_token_s=60.0)], 0),
    ],
)
def test_the_number_wanted_meets_every_target(loads: list[dict[str, float]], wanted: float) -> None:
    assert wanted_replicas(loads, *TARGETS) == pytest.approx(wanted)


def test_a_recorded_day_is_followed() -> None:
    # sequences in the whole cluster, hour by hour, spread evenly over the replicas that there are
    day = [0, 0, 2, 5, 20, 60, 130, 200, 180, 120, 60, 30, 16, 4, 0]
    replicas, followed = 1.0, []
    for total in day:
        count = max(1, round(replicas))
        replicas = max(1.0, wanted_replicas([load(sequences=total / count)] * count, *TARGETS))
        followed.append(replicas)
    assert followed == pytest.approx([max(1.0, total / 16) for total in day])


def test_serve_asks_by_name() -> None:
    status = EngineStatus(
        model="m",
        max_model_len=1,
        num_running=30,
        num_waiting=2,
        num_waiting_tokens=0,
        num_blocks=100,
        num_free_blocks=60,
    )
    metrics: dict[str, dict[str, float]] = {}
    for replica in ("a", "b"):
        for name, value in load_of(status).items():
            metrics.setdefault(name, {})[replica] = value
    policy = Policy(*TARGETS)
    assert policy(SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=2))[0] == 4.0
    assert policy(SimpleNamespace(aggregated_metrics={}, target_num_replicas=2))[0] == 2


@pytest.fixture
def scaled(ray_cluster: None) -> Iterator[str]:
    scaling = {
        "min_replicas": 0,
        "max_replicas": 3,
        "target_ongoing_requests": 4,
        "look_back_period_s": 1.0,
        "upscale_delay_s": 0.5,
        "downscale_delay_s": 1.0,
        "downscale_to_zero_delay_s": 1.0,
    }
    model = {"served_model_name": "scaled", "model": "none", "autoscaling": scaling, "resources": {"num_cpus": 0.1}}
    config = load_args({"models": [model], "wire": {"bind": "127.0.0.1"}})
    serve.run(application(config, build_echo_app, load_toy_engine, no_ranks), name="scaled", route_prefix="/scaled")
    yield "http://127.0.0.1:18000/scaled"
    within(60, lambda: serve.delete("scaled"))


def ask(url: str, **body: Any) -> list[int]:
    data = json.dumps({**body, "model": "scaled"}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=data, method="POST"), timeout=90) as response:
        return [token for line in response.read().decode().splitlines() for token in json.loads(line)[1]]


def num_running() -> int:
    deployments = serve.status().applications["scaled"].deployments
    return deployments["Replica-scaled"].replica_states.get("RUNNING", 0)


def until(count: int, limit_s: float) -> None:
    deadline_s = time.monotonic() + limit_s
    while num_running() != count:
        assert time.monotonic() < deadline_s, f"{num_running()} replicas run, {count} were to"
        time.sleep(0.2)


@pytest.mark.ray
def test_from_one_to_three_to_none_and_back(scaled: str) -> None:
    stop = threading.Event()
    faults: list[str] = []

    def work(i: int) -> None:
        while not stop.is_set():
            if ask(scaled, request_id=f"r{i}", prompt=[i, 2], max_tokens=120) != expected[i]:
                faults.append(f"r{i} got other tokens")

    expected = [recompute(request("", [i, 2], max_tokens=120))[0] for i in range(14)]
    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(14)]
    for thread in threads:
        thread.start()
    until(3, 60)
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults
    until(0, 60)
    assert ask(scaled, request_id="late", prompt=[0, 2], max_tokens=120) == expected[0]
