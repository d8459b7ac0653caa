"""Clients that leave, wait or do not read. The server's side is driven directly: no socket, no luck."""

import asyncio

import msgspec
import pytest

from configs.schema import ApiConfig, Config, IngressConfig
from tests.serve_app.scripted import ScriptedClient, build_app, chat, config, says
from tests.serve_app.toy import toy_model


def scope_of(headers: list[tuple[bytes, bytes]]) -> dict:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"test"), (b"content-type", b"application/json"), *headers],
    }


class Peer:
    """One request over ASGI whose client can leave or stop reading."""

    def __init__(
        self,
        client: ScriptedClient,
        settings: Config | None = None,
        headers: list[tuple[bytes, bytes]] | None = None,
        **fields: object,
    ) -> None:
        self.sent: list[dict] = []
        self.left = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self._body = msgspec.json.encode(chat(**fields))
        self._asked = False
        app = build_app(client, settings or config(), {"toy": toy_model()})
        self.task = asyncio.create_task(app(scope_of(headers or []), self._receive, self._send))

    async def _receive(self) -> dict:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict) -> None:
        await self.reads.wait()
        self.sent.append(message)

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_fault_of_the_servers(caplog):
    client, sent = ScriptedClient(says("x")), []
    app = build_app(client, config(), {"toy": toy_model()})
    pieces = iter([{"type": "http.request", "body": b'{"mess', "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> dict:
        return next(pieces)

    async def send(message: dict) -> None:
        sent.append(message)

    await app(scope_of([]), receive, send)
    assert not client.requests and not caplog.records
    assert all(message.get("status", 499) == 499 for message in sent)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [[60.0], [*says("ab", finish=None), 60.0]], ids=["waiting", "running"])
async def test_a_client_that_leaves_ends_its_request(stream, script):
    client = ScriptedClient(script)
    peer = Peer(client, stream=stream)
    await asyncio.sleep(0.05)
    assert client.requests and not client.closed.is_set()
    peer.left.set()
    async with asyncio.timeout(30):
        await client.closed.wait()
        await peer.task
    assert client.num_closed == 1


async def test_a_silent_stream_is_kept_alive():
    client = ScriptedClient([*says("a", finish=None), 0.35, *says("b")])
    peer = Peer(client, config(ApiConfig(keep_alive_s=0.1)), stream=True)
    await peer.task
    assert 2 <= peer.text.count(": keep-alive\n\n") <= 3
    assert peer.text.endswith("data: [DONE]\n\n")


async def test_a_busy_stream_is_not_disturbed():
    client = ScriptedClient([item for piece in says("abcdef", eos=False) for item in (0.05, piece)])
    peer = Peer(client, config(ApiConfig(keep_alive_s=0.1)), stream=True)
    await peer.task
    assert "keep-alive" not in peer.text


async def test_events_that_wait_are_sent_together_and_a_stream_is_not_held_back():
    client = ScriptedClient([*says("a", finish=None), 0.05, *says("b")])
    peer = Peer(client, stream=True)
    await asyncio.sleep(0.03)
    assert '"content":"a"' in peer.text and '"content":"b"' not in peer.text
    await peer.task
    assert peer.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_reader_that_does_not_read_loses_its_stream():
    settings = msgspec.structs.replace(config(), ingress=IngressConfig(max_stream_bytes=10_000))
    client = ScriptedClient([*says("a", finish=None), 0.05, *says("x" * 1000, finish=None), 60.0])
    peer = Peer(client, settings, stream=True)
    await asyncio.sleep(0.03)
    peer.reads.clear()
    async with asyncio.timeout(30):
        await client.closed.wait()
        await peer.task
    assert client.num_closed == 1
    assert "[DONE]" not in peer.text


async def test_an_answer_that_is_read_to_its_end_leaves_no_task_behind():
    before = asyncio.all_tasks()
    peer = Peer(ScriptedClient(says("ab")), stream=True)
    await peer.task
    await asyncio.sleep(0.01)
    assert asyncio.all_tasks() == before
