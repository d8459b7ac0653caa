"""Each hostile request, against a real ingress, with 25 small requests a second and a running stream beside it."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from tests.serve_app.hostile.corpus import Hostile, corpus
from tests.serve_app.hostile.server import ENDLESS

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads what a process holds from /proc"),
]

CORPUS = corpus()
MOST_WAIT_S = 0.1  # that others wait longer than beside nothing
MOST_S = 15.0  # for an answer
MOST_MORE_BYTES = 100 << 20  # that the ingress holds when all is over
EVERY_S = 0.04  # a small request
TRIES = 3  # a busy machine pauses now and then
SMALL = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}


@pytest.fixture(scope="module")
def server() -> Iterator["Server"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.serve_app.hostile.server"], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    try:
        yield Server(process.pid, int(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


class Server:
    def __init__(self, pid: int, port: int) -> None:
        self.pid, self.url = pid, f"http://127.0.0.1:{port}"
        self.idle_s: float | None = None
        self.first_bytes: int | None = None  # resident, before anything hostile came

    @property
    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def connected(server: Server) -> httpx2.AsyncClient:
    """Plain HTTP: certificates, which take 20 ms to load, are of no use."""
    return httpx2.AsyncClient(base_url=server.url, timeout=MOST_S, verify=False)


@asynccontextmanager
async def watched(server: Server) -> AsyncIterator[list[float]]:
    """What small requests and the gaps of a stream take meanwhile, in seconds."""
    took_s: list[float] = []

    async def ask() -> None:
        async with connected(server) as http:
            while True:
                asked_s = time.monotonic()
                answer = await http.post("/v1/chat/completions", json=SMALL)
                assert answer.status_code == 200, answer.text
                took_s.append(time.monotonic() - asked_s)
                await asyncio.sleep(max(0.0, EVERY_S - took_s[-1]))

    async def read() -> None:
        body = {**SMALL, "max_tokens": ENDLESS, "stream": True}
        async with (
            connected(server) as http,
            http.stream("POST", "/v1/chat/completions", json=body) as answer,
        ):
            last_s = time.monotonic()
            async for _ in answer.aiter_bytes():
                now_s = time.monotonic()
                took_s.append(now_s - last_s)
                last_s = now_s

    tasks = [asyncio.create_task(ask()), asyncio.create_task(read())]
    while len(took_s) < 4 and not any(task.done() for task in tasks):  # until both go on
        await asyncio.sleep(0.005)
    took_s.clear()
    try:
        yield took_s
    finally:
        for task in tasks:
            assert not task.done(), task.exception()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def longest_idle_s(server: Server) -> float:
    if server.idle_s is None:
        async with watched(server) as took_s:
            await asyncio.sleep(2)
        server.idle_s = max(took_s)
        server.first_bytes = server.resident_bytes
    return server.idle_s


def test_there_are_as_many_as_are_promised() -> None:
    assert len(CORPUS) >= 150


@pytest.mark.parametrize("name", CORPUS)
async def test_nobody_waits_for_a_hostile_request(server: Server, name: str) -> None:
    idle_s, body = await longest_idle_s(server), CORPUS[name].make()
    for _ in range(TRIES):
        longest_s = await longest_beside(server, CORPUS[name], body)
        if longest_s <= idle_s + MOST_WAIT_S:
            return
    pytest.fail(f"others waited {longest_s:.3f} s, beside nothing {idle_s:.3f} s")


async def longest_beside(server: Server, hostile: Hostile, body: bytes) -> float:
    async with connected(server) as http, watched(server) as took_s:
        try:
            answer = await http.request(hostile.method, hostile.path, content=body, headers=dict(hostile.headers))
        except httpx2.WriteError:  # refused before it was read
            answer = None
        await asyncio.sleep(0.05)
        longest_s = max(took_s)
    if answer is not None:
        assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text[:300]
        if answer.status_code != 200:
            error = json.loads(answer.text)["error"]
            assert 0 < len(error["message"]) < 2000
    return longest_s


def test_what_was_taken_comes_back(server: Server) -> None:
    """Runs last: all of them have been asked."""
    assert server.first_bytes is not None, "run it after the others"
    assert server.resident_bytes < server.first_bytes + MOST_MORE_BYTES
