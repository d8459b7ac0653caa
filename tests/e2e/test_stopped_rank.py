"""A rank of a deployed replica is stopped: its streams move, exactly, and Serve replaces the replica."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from ray import serve

from cluster.deploy import application
from configs.load import load_args
from tests.cluster.echo_app import build_echo_app
from tests.e2e.ranked_app import load_ranked_engine, run_ranked_worker
from tests.e2e.streams import pids, status, struck, wait_for
from tests.engine.parallel.test_ranks import tiny
from tests.within import within

pytestmark = [pytest.mark.ray]

APP = "ranked"
REPLICA = f"{APP}#Replica-toy"
NOTICED_S = 3.0  # at most, between the fault and the next token: 2 s of silence, and what the move takes


@pytest.fixture(scope="module")
def app(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    source: Path = tiny(tmp_path_factory.mktemp("tiny"), "llama", max_position_embeddings=2048)
    model = {
        "served_model_name": "toy",
        "model": str(source),
        "num_replicas": 2,
        "tensor_parallel_size": 2,
        "resources": {"num_cpus": 0.5},
        "engine": {"device": "cpu", "dtype": "float32", "num_threads": 1, "cache": {"num_blocks": 1024}},
    }
    document = {"models": [model], "wire": {"bind": "127.0.0.1"}}
    built = application(load_args(document), build_echo_app, load_ranked_engine, run_ranked_worker)
    serve.run(built, name=APP, route_prefix=f"/{APP}")
    wait_for("both replicas are found", lambda: (status(APP) or {"num_blocks": 0})["num_blocks"] == 2048)
    yield
    within(60, lambda: serve.delete(APP))


def test_streams_leave_a_replica_whose_rank_is_stopped_and_serve_replaces_it(app: None) -> None:
    strike = partial(struck, APP, max_tokens=700, after_s=0.6)
    undisturbed = strike(lambda: None)
    victim, replicas, ranks = pids("Rank")[0], pids(REPLICA), pids("Rank")
    began_s = time.monotonic()
    outcome = strike(lambda: os.kill(victim, signal.SIGSTOP))
    for before, after in zip(undisturbed, outcome, strict=True):
        assert [(one.cut, one.tokens) for one in after] == [(None, one.tokens) for one in before]
    assert max(one.longest_gap_s for one in outcome.streams) < NOTICED_S
    wait_for("it is replaced", lambda: len(pids(REPLICA)) == 2 and set(pids(REPLICA)) != set(replicas))
    wait_for("its ranks too", lambda: len(pids("Rank")) == len(ranks) and victim not in pids("Rank"))
    wait_for("nothing is left of it", lambda: not Path(f"/proc/{victim}").exists())
    print(f"replaced after {time.monotonic() - began_s:.1f} s")
