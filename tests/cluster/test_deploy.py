"""The deployments on a real Ray Serve, with toy engines."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve
from ray.util.state import list_actors

from cluster.deploy import application
from configs.load import load_args
from scripts.dashboards.panels import BOARDS
from tests.cluster.echo_app import build_echo_app, load_toy_engine, no_ranks
from tests.engine.toy import recompute, request
from tests.within import within

URL = "http://127.0.0.1:18000/echo"


@pytest.fixture(scope="module")
def echo(ray_cluster: None) -> Iterator[None]:
    config = load_args(
        {
            "models": [
                {"served_model_name": "toy", "model": "none", "num_replicas": 2, "resources": {"num_cpus": 0.1}}
            ],
            "wire": {"bind": "127.0.0.1"},
        }
    )
    serve.run(application(config, build_echo_app, load_toy_engine, no_ranks), name="echo", route_prefix="/echo")
    yield
    within(60, lambda: serve.delete("echo"))


def ask(**body: Any) -> list[int]:
    """The tokens of choice 0, in order of arrival."""
    data = json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(URL, data=data, method="POST"), timeout=60) as response:
        lines = [json.loads(line) for line in response.read().decode().splitlines()]
    return [token for index, tokens in lines for token in tokens if index == 0]


def replica_pids() -> list[int]:
    # by address: other clusters may run on this machine
    actors = list_actors(address="http://127.0.0.1:18265", filters=[("state", "=", "ALIVE")])
    return [actor.pid for actor in actors if "Replica-toy" in (actor.name or "")]


@pytest.mark.ray
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


# what is there on some clusters alone: with GPUs, KV offload, too few blocks, other kernels, alerts, refused requests,
# usage by key, streams that are resumed, recurrent states; scripts/bench/alerts.py has some of it
SOMETIMES = {
    "ALERTS",
    "ray_manta_key_completion_tokens_total",
    "ray_manta_key_prompt_tokens_total",
    "ray_manta_key_rejections_total",
    "ray_manta_mixed_kernel_streams_total",
    "ray_manta_resumed_streams_total",
    "ray_manta_state_snapshots",
    "ray_manta_state_usage_perc",
    "ray_node_gpus_utilization",
    "ray_node_gram_used",
    "ray_vllm_external_prefix_cache_hits_total",
    "ray_vllm_num_preemptions_total",
}
LINES = [line for board in BOARDS for row in board.rows.values() for panel in row for line in panel.lines.items()]


@pytest.mark.ray
def test_what_the_dashboards_ask_for_is_exported(echo: None) -> None:
    """Every metric, with the labels by which it is added up. A replica was killed above, so that streams have moved."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for _, expression in LINES:
        for name in re.findall(r"ray_\w+", expression):
            wanted[name] |= {
                label for labels in re.findall(r"by \(([\w, ]+)\)", expression) for label in labels.split(", ")
            }
    ask(request_id="shared", prompt=[7] * 40, max_tokens=4)
    ask(request_id="shared again", prompt=[7] * 40, max_tokens=4)
    deadline_s = time.monotonic() + 60
    while missing := wanted.keys() - exported().keys() - SOMETIMES:
        assert time.monotonic() < deadline_s, f"not exported: {missing}"
        time.sleep(1)
    found = exported()
    assert {
        name: labels - found[name] for name, labels in wanted.items() if name in found and labels - found[name]
    } == {}


@pytest.mark.ray
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Prometheus (apt-get install prometheus)")
def test_prometheus_answers_what_the_dashboards_ask(echo: None, tmp_path: Path) -> None:
    with prometheus(tmp_path) as url:
        empty = {
            legend + text: (legend, text)
            for legend, text in LINES
            if not any(name in text for name in {*SOMETIMES, "429|503"})
        }
        deadline_s = time.monotonic() + 90
        while empty and time.monotonic() < deadline_s:
            ask(request_id=f"asked {time.monotonic()}", prompt=[7] * 40, max_tokens=20)
            for key, (legend, expression) in list(empty.items()):
                text = expression.replace("$__rate_interval", "20s").replace("$model", "toy")
                query = urllib.parse.urlencode({"query": text})
                with urllib.request.urlopen(f"{url}/api/v1/query?{query}", timeout=10) as response:
                    rows = json.load(response)["data"]["result"]
                if rows and all(set(re.findall(r"{{(\w+)}}", legend)) <= row["metric"].keys() for row in rows):
                    del empty[key]
        assert not empty


@contextlib.contextmanager
def prometheus(folder: Path) -> Iterator[str]:
    """One that looks at this node every second."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    targets = [f"127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}"]
    jobs = [{"job_name": "ray", "static_configs": [{"targets": targets}]}]
    (folder / "prometheus.yml").write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    options.append(f"--web.listen-address=127.0.0.1:{port}")
    process = subprocess.Popen(["prometheus", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/-/ready", timeout=1):
                break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def exported() -> dict[str, set[str]]:
    """The labels of every metric that this node tells."""
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text = response.read().decode()
    found: dict[str, set[str]] = defaultdict(set)
    for name, labels in re.findall(r"^(\w+)\{(.*)\} ", text, re.MULTILINE):
        found[name] |= set(re.findall(r'(\w+)="', labels))
    return found
