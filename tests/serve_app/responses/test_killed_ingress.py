"""What an ingress has kept in Redis is there after the ingress was killed."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2

from serve_app.responses import background
from tests.serve_app.state.redis_server import needs_redis, redis_server

pytestmark = [needs_redis]

URL = "/v1/responses"


class Ingress:
    def __init__(self, redis: str) -> None:
        command = [sys.executable, "-m", "tests.serve_app.responses.ingress", redis]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self.url, verify=False)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def ingresses(tmp_path) -> Iterator[tuple[Ingress, Ingress]]:
    with redis_server(tmp_path) as url:
        both = Ingress(url), Ingress(url)
        try:
            yield both
        finally:
            for one in both:
                if one.process.poll() is None:
                    one.kill()


async def test_responses_and_conversations_are_continued_elsewhere(tmp_path):
    with ingresses(tmp_path) as (first, second):
        async with first.client() as http:
            made = (await http.post(URL, json={"input": "a"})).json()
            begun = (await http.post("/v1/conversations", json={})).json()
            await http.post(URL, json={"input": "b", "conversation": begun["id"]})
        first.kill()
        async with second.client() as http:
            assert (await http.get(f"{URL}/{made['id']}")).json() == made
            for fields in ({"previous_response_id": made["id"]}, {"conversation": begun["id"]}):
                answer = (await http.post(URL, json={"input": "c", **fields})).json()
                # the template's markers and 1 + 8 + 1 letters
                assert answer["usage"]["input_tokens"] > made["usage"]["input_tokens"] + 9
                assert answer["status"] == "completed"


async def test_a_background_response_whose_ingress_was_killed_goes_on(tmp_path):
    with ingresses(tmp_path) as (first, second):
        async with first.client() as http:
            made = (await http.post(URL, json={"input": "a", "background": True})).json()
            await asyncio.sleep(0.15)
        first.kill()
        async with second.client() as http, asyncio.timeout(background.DEAD_S + 10):
            while (found := (await http.get(f"{URL}/{made['id']}")).json())["status"] in background.OPEN:
                await asyncio.sleep(0.2)
    assert found["status"] == "completed" and found["output"][0]["content"][0]["text"] == "abcdefgh"
