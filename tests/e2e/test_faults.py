"""Every part of a deployed cluster that can be lost, each in the middle of streams: toy engines on a real Ray Serve."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from ray import serve

from cluster.deploy import application
from configs.load import load_args
from tests.cluster.echo_app import build_echo_app, load_slow_engine, no_ranks
from tests.e2e.memory_group import memory_group
from tests.e2e.streams import Outcome, Stream, pids, status, struck, wait_for
from tests.engine.toy import recompute, request
from tests.within import within

pytestmark = [pytest.mark.ray]

APP = "faults"
INGRESS, REPLICA, CONTROLLER = f"{APP}#Ingress", f"{APP}#Replica-toy", "SERVE_CONTROLLER_ACTOR"
strike = partial(struck, APP, max_tokens=300)  # some four seconds of a stream


def deploy(max_num_batched_tokens: int) -> None:
    model = {"served_model_name": "toy", "model": "none", "num_replicas": 2, "resources": {"num_cpus": 0.1}}
    document = {
        "models": [model | {"engine": {"scheduler": {"max_num_batched_tokens": max_num_batched_tokens}}}],
        "wire": {"bind": "127.0.0.1"},
        "ingress": {"num_replicas": 2, "drain_s": 60},
    }
    built = application(load_args(document), build_echo_app, load_slow_engine, no_ranks)
    serve.run(built, name=APP, route_prefix=f"/{APP}")


@pytest.fixture(scope="module")
def app(ray_cluster: None) -> Iterator[None]:
    deploy(512)
    yield
    within(60, lambda: serve.delete(APP))


def is_free() -> bool:
    """Whether both replicas are there and no block of them is held."""
    told = status(APP)
    return told is not None and told["num_running"] == 0 and told["num_free_blocks"] == told["num_blocks"] == 1024


@pytest.fixture(autouse=True)
def whole(app: None) -> None:
    wait_for("two ingresses and two replicas", lambda: len(pids(INGRESS)) == len(pids(REPLICA)) == 2)
    wait_for("nothing runs", is_free)
    time.sleep(1.5)  # until each ingress has found both replicas


def expected(stream: Stream) -> list[int]:
    fields: dict[str, Any] = dict(stream.asked)
    return recompute(request(**fields))[0]


def assert_nothing_is_lost(outcome: Outcome) -> None:
    for stream in (*outcome.streams, *outcome.newcomers):
        assert (stream.cut, stream.tokens) == (None, expected(stream))


def test_a_killed_ingress_cuts_its_own_streams_alone_and_their_blocks_are_free_again() -> None:
    victim = pids(INGRESS)[0]
    streams, newcomers = strike(lambda: os.kill(victim, signal.SIGKILL))
    whole = [stream for stream in streams if stream.cut is None]
    assert 0 < len(whole) < len(streams)
    for stream in streams:  # what is cut is no shorter answer to the client: the body does not end
        asked = expected(stream)
        assert stream.tokens == (asked if stream in whole else asked[: len(stream.tokens)])
    assert [stream.tokens for stream in newcomers if stream.cut is None] != []
    wait_for("the blocks of lost streams are free", is_free, 10)


def test_streams_and_new_requests_go_on_without_serves_controller() -> None:
    (controller,) = pids(CONTROLLER)
    assert_nothing_is_lost(strike(lambda: os.kill(controller, signal.SIGKILL)))
    wait_for("another controller", lambda: pids(CONTROLLER) not in ([], [controller]))


def test_a_roll_out_loses_nothing() -> None:
    before = {*pids(INGRESS), *pids(REPLICA)}
    rolling = threading.Thread(target=deploy, args=(256,))
    assert_nothing_is_lost(strike(rolling.start, num_newcomers=24))
    rolling.join()
    wait_for("the old ones are gone", lambda: not before & {*pids(INGRESS), *pids(REPLICA)})


def test_a_replica_that_is_told_to_end_loses_nothing() -> None:
    victim = pids(REPLICA)[0]
    assert_nothing_is_lost(strike(lambda: os.kill(victim, signal.SIGTERM)))
    wait_for("it is replaced", lambda: len(pids(REPLICA)) == 2 and victim not in pids(REPLICA))


def test_a_replica_that_passes_its_memory_limit_loses_nothing() -> None:
    victim = pids(REPLICA)[0]
    with memory_group(1 << 14) as limit:  # of what it takes from then on: it passes that in the middle of its streams
        assert_nothing_is_lost(strike(lambda: limit(victim)))
        wait_for("it is gone", lambda: victim not in pids(REPLICA), 5)
        wait_for("it is replaced", lambda: len(pids(REPLICA)) == 2 and victim not in pids(REPLICA))
