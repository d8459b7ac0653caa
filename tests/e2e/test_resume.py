"""The ingress is killed in the middle of streams: their clients come back, and have them whole, byte for byte."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any

import aiohttp
import pytest

from scripts.bench.resuming_client import Resumed, resumed
from tests.e2e.streams import pids, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.weights]

KINDS = ("no seed", "n = 3", "logprobs", "schema", "tool call", "completion", "messages", "responses")


def test_streams_outlive_their_ingress(server: str) -> None:
    killed, begun = pids("Ingress"), dict.fromkeys(KINDS, 0)

    async def ask() -> tuple[list[Resumed], list[Resumed]]:
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:

            def watched(kind: str) -> Coroutine[Any, Any, Resumed]:
                def note(num_bytes: int) -> bool:
                    begun[kind] = num_bytes
                    return False

                return resumed(session, server, kind, f"key-{kind}", is_cut=note)

            running = asyncio.gather(*(watched(kind) for kind in KINDS))
            async with asyncio.timeout(60):
                while sum(num_bytes > 1_500 for num_bytes in begun.values()) < 5:
                    await asyncio.sleep(0.02)
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            streams = await running
            return streams, [await resumed(session, server, kind, f"key-{kind}") for kind in KINDS]

    streams, whole = asyncio.run(ask())
    assert [one.error for one in (*streams, *whole) if one.error] == []
    assert [kind for kind, one, other in zip(KINDS, streams, whole, strict=True) if one.events != other.events] == []
    assert sum(one.num_lines > 1 for one in streams) >= 3
    wait_for("a new ingress", lambda: bool(pids("Ingress")) and not set(pids("Ingress")) & set(killed))
