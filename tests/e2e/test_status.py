"""GET /status on a real Ray Serve: replicas, load, routing decisions, migrations, autoscaling; the page for people."""

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from ray import serve
from ray.util.state import list_actors

from cluster.deploy import application
from configs.load import load_args
from tests.cluster.echo_app import load_slow_engine, no_ranks
from tests.e2e.status_app import build_status_app
from tests.e2e.streams import wait_for
from tests.within import within

pytestmark = [pytest.mark.ray]

URL = "http://127.0.0.1:18000/fleet"
SCALING = {
    "min_replicas": 2,
    "max_replicas": 3,
    "target_ongoing_requests": 4,
    "look_back_period_s": 1.0,
    "upscale_delay_s": 0.5,
    "downscale_delay_s": 600.0,
}


@pytest.fixture(scope="module")
def app(ray_cluster: None) -> Iterator[None]:
    model = {"served_model_name": "toy", "model": "none", "autoscaling": SCALING, "resources": {"num_cpus": 0.1}}
    config = load_args({"models": [model], "wire": {"bind": "127.0.0.1"}})
    built = application(config, build_status_app, load_slow_engine, no_ranks)
    serve.run(built, name="fleet", route_prefix="/fleet")
    wait_for("both replicas run", lambda: [one["state"] for one in fleet()["replicas"]] == ["running"] * 2)
    yield
    within(60, lambda: serve.delete("fleet"))


def test_the_composition_root_has_a_fleet_too(server: str) -> None:
    with urllib.request.urlopen(f"{server.removesuffix('/v1')}/status", timeout=10) as response:
        (shown,) = json.load(response)["fleet"]
    assert shown["model"] == "smollm2-135m-instruct" and shown["autoscaling"] is None
    assert {one["state"] for one in shown["replicas"]} <= {"running", "starting"} and len(shown["replicas"]) >= 2


def get(path: str, accept: str = "application/json") -> tuple[str, str]:
    """Media type and text."""
    asked = urllib.request.Request(f"{URL}/{path}", headers={"Accept": accept})
    with urllib.request.urlopen(asked, timeout=10) as response:
        return response.headers["Content-Type"], response.read().decode()


def fleet() -> dict[str, Any]:
    (found,) = json.loads(get("status")[1])["fleet"]
    return dict(found)


def complete(number: int) -> dict[str, Any]:
    """An answer that takes some three seconds."""
    body = {"prompt": [number % 50, 2], "max_tokens": 250, "ignore_eos": True, "temperature": 0}
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{URL}/v1/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(asked, timeout=60) as response:
        return dict(json.load(response))


@contextmanager
def answering(count: int) -> Iterator[list[Future[dict[str, Any]]]]:
    with ThreadPoolExecutor(count) as pool:
        answers = [pool.submit(complete, number) for number in range(count)]
        wait_for("all of them run", lambda: num_running() == count, 10)
        yield answers


def num_running() -> int:
    return sum(one["engine"]["num_running"] for one in fleet()["replicas"] if one["engine"])


def num_routed() -> int:
    return sum(count for one in fleet()["replicas"] for count in one["routed"].values())


def test_browsers_get_the_page_whose_parts_are_found_below_the_routes_prefix(app: None) -> None:
    kind, text = get("status", "text/html,*/*;q=0.8")
    assert kind == "text/html; charset=utf-8" and 'src="status_page/main.mjs"' in text
    assert get("status_page/main.mjs")[0].startswith("text/javascript")


def test_replicas_have_states_load_and_routing_decisions(app: None) -> None:
    before = num_routed()
    with answering(4):
        shown = fleet()
        assert [one["state"] for one in shown["replicas"]] == ["running", "running"]
        assert [one["engine"]["num_running"] for one in shown["replicas"]] == [2, 2]  # the less busy one is chosen
        assert all(one["engine"]["num_free_blocks"] < one["engine"]["num_blocks"] for one in shown["replicas"])
        assert num_routed() - before == 4
        assert {reason for one in shown["replicas"] for reason in one["routed"]} <= {"load", "cached"}
    wait_for("none runs", lambda: num_running() == 0, 10)


def test_migrations_say_which_replica_was_lost_and_another_one_takes_its_place(app: None) -> None:
    lost = fleet()["replicas"][0]["replica_id"]
    with answering(4) as answers:
        os.kill(pid_of(lost), signal.SIGKILL)
        migrated = sum(one.result()["usage"].get("migrations", 0) for one in answers)
    shown = fleet()
    assert 0 < shown["num_migrations"] == len(shown["migrations"]) == migrated <= 2
    assert {(one["replica_id"], one["reason"]) for one in shown["migrations"]} == {(lost, "connection lost")}
    wait_for("it is replaced", lambda: lost not in (states := running_ids()) and len(states) == 2)


def test_autoscaling_shows_the_desired_replicas_and_its_changes(app: None) -> None:
    scaling = fleet()["autoscaling"]
    assert (scaling["min_replicas"], scaling["max_replicas"], scaling["target_replicas"]) == (2, 3, 2)
    assert scaling["events"] == []
    with answering(12):
        assert fleet()["autoscaling"]["wanted"]["sequences"] == 3.0
        wait_for("a third one is wanted", lambda: fleet()["autoscaling"]["target_replicas"] == 3, 10)
        assert [(one["before"], one["after"]) for one in fleet()["autoscaling"]["events"]] == [(2, 3)]
    wait_for("the third one is there", lambda: len(fleet()["replicas"]) == 3)


def running_ids() -> list[str]:
    return [one["replica_id"] for one in fleet()["replicas"] if one["state"] == "running"]


def pid_of(replica_id: str) -> int:
    # by address: other clusters may run on this machine
    actors = list_actors(address="http://127.0.0.1:18265", filters=[("state", "=", "ALIVE")], limit=1000)
    (pid,) = (actor.pid for actor in actors if actor.pid and replica_id in (actor.name or ""))
    return pid
