"""Client connection of a running answer: disconnects, backpressure of slow readers, keep-alive."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive, Send

from serve_app.transport.sse import KEEP_ALIVE

__all__ = ["ClientGone", "Outbox", "while_connected"]


class ClientGone(Exception):
    """The client has disconnected, or reads too slowly."""


@asynccontextmanager
async def while_connected(receive: Receive) -> AsyncIterator[None]:
    """Cancels the block with ClientGone as soon as the client disconnects. The request's body has been read."""
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        watcher.cancel()


class Outbox:
    """The send buffer of one stream. All pending data is sent together.

    max_bytes      of pending data; more raises ClientGone: the reader is too slow
    keep_alive_s   after so long without an event `keep_alive` is sent, so that no proxy closes the connection
    """

    def __init__(self, send: Send, *, max_bytes: int, keep_alive_s: float, keep_alive: bytes = KEEP_ALIVE) -> None:
        self._send = send
        self._max_bytes = max_bytes
        self._keep_alive_event = keep_alive
        self._keep_alive_s = keep_alive_s
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._ready = asyncio.Event()
        self._closed = False

    async def __aenter__(self) -> "Outbox":
        self._loop = asyncio.get_running_loop()
        self._last_put_s = self._loop.time()
        self._timer = self._loop.call_later(self._keep_alive_s, self._keep_alive)
        self._sender = asyncio.create_task(self._send_all())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits until all is sent, unless an error was raised."""
        self._timer.cancel()
        if kind is not None:
            self._sender.cancel()
        self._closed = True
        self._ready.set()
        try:
            await self._sender
        except OSError:  # some servers report it this way
            raise ClientGone from None
        except asyncio.CancelledError:
            if kind is None:
                raise
        finally:
            self._sender.cancel()

    def put(self, data: bytes) -> None:
        if not data:
            return
        self._last_put_s = self._loop.time()
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > self._max_bytes or self._sender.done():
            raise ClientGone
        self._ready.set()

    async def _send_all(self) -> None:
        while self._waiting or not self._closed:
            await self._ready.wait()
            self._ready.clear()
            body, self._waiting, self._waiting_bytes = b"".join(self._waiting), [], 0
            if body:
                await self._send({"type": "http.response.body", "body": body, "more_body": True})

    def _keep_alive(self) -> None:
        now_s = self._loop.time()
        if now_s >= self._last_put_s + self._keep_alive_s and not self._waiting:
            self.put(self._keep_alive_event)
        due_s = self._last_put_s + self._keep_alive_s
        self._timer = self._loop.call_at(due_s if due_s > now_s else now_s + self._keep_alive_s, self._keep_alive)
