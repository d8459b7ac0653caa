"""The deployments on a real Ray Serve, with toy engines."""

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray import serve
from ray.util.state import list_actors

from cluster.deploy import application
from configs.load import load_args
from tests.cluster.echo_app import build_echo_app, load_toy_engine, no_ranks
from tests.engine.toy import recompute, request

URL = "http://127.0.0.1:18000/echo"


@pytest.fixture(scope="module")
def echo(ray_cluster: None) -> Iterator[None]:
    config = load_args(
        {
            "models": [{"name": "toy", "source": "none", "num_replicas": 2, "resources": {"num_cpus": 0.1}}],
            "wire": {"bind": "127.0.0.1"},
        }
    )
    serve.run(application(config, build_echo_app, load_toy_engine, no_ranks), name="echo", route_prefix="/echo")
    yield
    serve.delete("echo")


def ask(**body: Any) -> list[int]:
    """The tokens of choice 0, in order of arrival."""
    data = json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(URL, data=data, method="POST"), timeout=60) as response:
        lines = [json.loads(line) for line in response.read().decode().splitlines()]
    return [token for index, tokens in lines for token in tokens if index == 0]


def replica_pids() -> list[int]:
    actors = list_actors(filters=[("state", "=", "ALIVE")])
    return [actor.pid for actor in actors if "Replica-toy" in (actor.name or "")]


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_a_crowd_is_answered_and_a_killed_replica_is_replaced(echo: None) -> None:
    answers: dict[int, list[int]] = {}

    def work(i: int) -> None:
        answers[i] = ask(request_id=f"r{i}", prompt=[i, 2], max_tokens=250, seed=i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    time.sleep(0.6)
    before = replica_pids()
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    for thread in threads:
        thread.join()
    for i in range(12):
        assert answers[i] == recompute(request("", [i, 2], max_tokens=250, seed=i))[0]
    deadline_s = time.monotonic() + 60
    while (len(replica_pids()) < 2 or before[0] in replica_pids()) and time.monotonic() < deadline_s:
        time.sleep(0.5)
    assert len(replica_pids()) == 2, "the killed replica did not come back"
    assert ask(request_id="again", prompt=[1], max_tokens=4) == recompute(request("", [1], max_tokens=4))[0]
    assert ray.is_initialized()


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_prometheus_finds_vllms_names(echo: None) -> None:
    num_tokens = len(ask(request_id="counted", prompt=[5, 2], max_tokens=20))
    port = ray.nodes()[0]["MetricsExportPort"]
    wanted = ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "generation_tokens_total"]
    wanted += ["time_to_first_token_seconds_bucket", "e2e_request_latency_seconds_sum", "request_success_total"]
    deadline_s = time.monotonic() + 60
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            lines = [line for line in response.read().decode().splitlines() if 'model_name="toy"' in line]
        missing = [name for name in wanted if not any(line.startswith(f"ray_vllm_{name}{{") for line in lines)]
        if not missing:
            break
        assert time.monotonic() < deadline_s, f"not exported: {missing}"
        time.sleep(1)
    counted = sum(
        float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("ray_vllm_generation_tokens_total")
    )
    assert counted >= num_tokens
