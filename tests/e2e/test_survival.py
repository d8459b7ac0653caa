"""Streams of every kind, while replicas die: the same to the last token as undisturbed ones."""

import asyncio
import time
from functools import partial

import aiohttp
import pytest

from scripts.bench.faults import FAULTS, KINDS, Answer, answer, disturbed, replica_pids

pytestmark = [pytest.mark.ray, pytest.mark.weights]

DEPLOYMENT = "Replica-smollm2"


@pytest.fixture(scope="module")
def undisturbed(server: str) -> dict[str, Answer]:
    async def ask() -> dict[str, Answer]:
        async with aiohttp.ClientSession() as session:
            return {kind: await answer(session, server, kind) for kind in KINDS}

    return asyncio.run(ask())


def test_undisturbed_answers_are_whole(undisturbed: dict[str, Answer]) -> None:
    for kind, one in undisturbed.items():
        assert one.error is None, kind
        assert one.usage is not None
        assert len(one.said) == KINDS[kind].get("n", 1)
        assert all(choice["reason"] for choice in one.said.values())


@pytest.mark.parametrize("fault", ["one replica killed", "one replica paused"])
def test_streams_of_every_kind_survive(server: str, undisturbed: dict[str, Answer], fault: str) -> None:
    deadline_s = time.monotonic() + 90
    while len(replica_pids(DEPLOYMENT)) < 2:
        assert time.monotonic() < deadline_s, "a killed replica did not come back"
        time.sleep(0.5)
    time.sleep(2)  # until the ingress has found it
    answers = asyncio.run(disturbed(server, list(KINDS), partial(FAULTS[fault], DEPLOYMENT), after_s=1.0))
    wrong = [kind for kind, one in zip(KINDS, answers, strict=True) if one != undisturbed[kind]]
    assert not wrong
