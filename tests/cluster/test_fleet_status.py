"""What an ingress says of the replicas of a model."""

import asyncio
from collections.abc import Mapping

import pytest

from cluster.control_plane import Deployed, deployment_name, read_details
from cluster.fleet import Fleet
from cluster.fleet_log import MAX_EVENTS, FleetLog
from cluster.routing import Load, reason_of
from configs.schema import AutoscalingConfig, Config, ModelConfig
from tests.cluster.local import LocalCluster, local_cluster
from tests.cluster.test_client import collect
from tests.engine.toy import request


class Serve:
    """Stands for Serve's controller."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.target: int | None = None

    async def deployed(self, model: str) -> Deployed:
        return Deployed(self.states, self.target)


def fleet_of(cluster: LocalCluster, serve: Serve) -> Fleet:
    model = ModelConfig(model="none", served_model_name="toy", autoscaling=AutoscalingConfig(max_replicas=9))
    return Fleet(cluster.client, Config(models=(model,)), serve.deployed, lambda: 50.0)


def phases(status: object) -> Mapping[str, str]:
    return {one.replica_id: one.state for one in status.replicas}  # type: ignore[attr-defined]


async def test_replicas_start_run_drain_and_are_lost() -> None:
    serve = Serve()
    async with local_cluster(2) as cluster:
        fleet = fleet_of(cluster, serve)
        serve.states = {"replica-0": "RUNNING", "replica-1": "RUNNING", "new": "STARTING", "found soon": "RUNNING"}
        assert phases(await fleet.status("toy")) == {
            "replica-0": "running",
            "replica-1": "running",
            "new": "starting",
            "found soon": "starting",
        }
        first, second = list(cluster.servers)
        cluster.servers[second].drain()
        await cluster.kill(first)
        await cluster.until_up(0)
        serve.states = {"replica-0": "RUNNING", "replica-1": "STOPPING"}
        assert phases(await fleet.status("toy")) == {"replica-0": "unreachable", "replica-1": "draining"}


async def test_requests_are_counted_where_they_went_and_why() -> None:
    async with local_cluster(2) as cluster:
        for number in range(4):
            await collect(cluster.client, request(f"r{number}", [1] * 64, max_tokens=2))
        status = await fleet_of(cluster, Serve()).status("toy")
    routed = [one.routed for one in status.replicas if one.routed]
    assert routed == [{"load": 1, "cached": 3}], "the first by load, all others to where its blocks are"
    assert sum(one.engine.num_generated_tokens for one in status.replicas if one.engine) == 8
    engine = next(one.engine for one in status.replicas if one.routed)
    assert engine is not None
    assert engine.num_prompt_tokens == 4 * 64 and engine.num_cached_tokens >= 3 * 48 and engine.num_steps >= 8


async def test_a_migration_is_reported_with_its_reason() -> None:
    async with local_cluster(2) as cluster:
        running = asyncio.create_task(collect(cluster.client, request("r", [1, 2], max_tokens=300)))
        async with asyncio.timeout(30):
            while not cluster.client.num_open or cluster.client.view("toy").num_unplaced:
                await asyncio.sleep(0.01)
        busy = next(at for at, server in cluster.servers.items() if server.num_open)
        left = cluster.servers[busy]._replica_id
        cluster.servers[busy].drain()
        await running
        status = await fleet_of(cluster, Serve()).status("toy")
    assert [(one.replica_id, one.reason) for one in status.migrations] == [(left, "drained")]
    assert status.num_migrations == 1


async def test_a_changed_target_is_a_scaling_event() -> None:
    serve = Serve()
    async with local_cluster(1) as cluster:
        fleet = fleet_of(cluster, serve)
        for target in (1, 1, None, 3, 2):
            serve.target = target
            scaling = (await fleet.status("toy")).autoscaling
    assert scaling is not None and scaling.target_replicas == 2 and scaling.max_replicas == 9
    assert [(one.at_s, one.before, one.after) for one in scaling.events] == [(50.0, 1, 3), (50.0, 3, 2)]
    assert scaling.wanted.keys() == {"sequences", "cache_use", "first_token_s"}


@pytest.mark.parametrize(
    ("loads", "reason"),
    [
        ([Load(9, 0, 0)], "only"),
        ([Load(1, 0, 0), Load(9, 0, 0)], "cached"),
        ([Load(9, 0, 0), Load(1, 9000, 40)], "load"),
        ([Load(9, 0, 0), Load(9, 0, 0)], "load"),
    ],
)
def test_a_reason_is_what_decided(loads: list[Load], reason: str) -> None:
    assert reason_of(0, loads) == reason


def test_the_log_is_bounded() -> None:
    log = FleetLog(lambda: 1.0)
    for number in range(3 * MAX_EVENTS):
        log.on_routed(f"r{number}", "load")
        log.on_migration(f"r{number}", "silent")
    log.keep({"r1"})
    assert len(log.migrations) == MAX_EVENTS and log.num_migrations == 3 * MAX_EVENTS
    assert log.routed("r1") == {"load": 1} and log.routed("r2") == {}


def test_serves_details_are_read_by_deployment() -> None:
    name = deployment_name("org/a model")
    assert name == "Replica-org-a-model"
    details = {
        "applications": {
            "manta": {
                "deployments": {name: {"target_num_replicas": 2, "replicas": [{"replica_id": "x", "state": "RUNNING"}]}}
            }
        }
    }
    assert read_details(details, "manta") == {name: Deployed({"x": "RUNNING"}, 2)}
