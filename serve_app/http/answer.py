"""The HTTP answers that run a request: one streams, one is sent at once.

Both wait for the engine's first output before they say anything, so that a rejection is a proper 4xx or 5xx, and both
abort the request as soon as the client is gone.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Protocol, cast

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import EngineFailed
from engine.types import EngineClient
from serve_app.generation.choice import Delta
from serve_app.generation.reply import Usage
from serve_app.http.connection import ClientGone, Outbox, while_connected
from serve_app.http.errors import fault_of

__all__ = ["EventAnswer", "EventForm", "Run", "StreamLimits", "WholeAnswer", "WholeForm"]


class Run(Protocol):
    """One request or several that are answered together."""

    def deltas(self, client: EngineClient) -> AsyncIterator[Delta]: ...
    def usage(self) -> Usage: ...
    def usage_of(self, index: int) -> Usage: ...


class EventForm(Protocol):
    """Writes events."""

    @property
    def wants_usage(self) -> bool: ...
    def opening(self, usage: Usage) -> bytes: ...
    def delta(self, delta: Delta, usage: Usage | None) -> bytes: ...
    def closing(self, usage: Usage) -> bytes: ...


class WholeForm(Protocol):
    """Writes one document."""

    def add(self, delta: Delta) -> None: ...
    def body(self, usage: Usage) -> bytes: ...


class StreamLimits(msgspec.Struct, frozen=True):
    max_waiting_bytes: int  # for one slow reader
    keep_alive_s: float


class EventAnswer(Response):
    """Server-sent events."""

    media_type = "text/event-stream"

    def __init__(
        self, client: EngineClient, reply: Run, form: EventForm, limits: StreamLimits, headers: Mapping[str, str]
    ) -> None:
        super().__init__()
        self._more = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self._client, self._reply, self._form, self._limits = client, reply, form, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with while_connected(receive):
                await self._stream(send)
        except ClientGone:
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stream(self, send: Send) -> None:
        reply, form = self._reply, self._form
        limits = self._limits
        async with aclosing(cast("AsyncGenerator[Delta]", reply.deltas(self._client))) as deltas:
            delta = await anext(deltas)
            await send({"type": "http.response.start", "status": 200, "headers": [*EVENT_HEADERS, *self._more]})
            async with Outbox(send, max_bytes=limits.max_waiting_bytes, keep_alive_s=limits.keep_alive_s) as outbox:
                outbox.put(form.opening(reply.usage()))
                try:
                    outbox.put(form.delta(delta, reply.usage_of(delta.index)))
                    async for delta in deltas:
                        usage = reply.usage_of(delta.index) if form.wants_usage else None
                        outbox.put(form.delta(delta, usage))
                except ClientGone:
                    raise
                except Exception as error:  # the status has been sent: what is left is an event
                    outbox.put(b"data: %b\n\ndata: [DONE]\n\n" % fault_of(error).body())
                else:
                    outbox.put(form.closing(reply.usage()))


EVENT_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies that know it pass every event on at once
]


class WholeAnswer(Response):
    """One JSON document."""

    media_type = "application/json"

    def __init__(self, client: EngineClient, reply: Run, form: WholeForm, headers: Mapping[str, str]) -> None:
        super().__init__()
        self._more = headers
        self._client, self._reply, self._form = client, reply, form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with while_connected(receive):
                await self._gather()
        except ClientGone:
            return
        usage = self._reply.usage()
        headers = {"X-Migrations": str(usage.num_migrations), **self._more}
        answer = Response(self._form.body(usage), headers=headers, media_type=self.media_type)
        await answer(scope, receive, send)

    async def _gather(self) -> None:
        async with aclosing(cast("AsyncGenerator[Delta]", self._reply.deltas(self._client))) as deltas:
            async for delta in deltas:
                if delta.finish_reason == "abort":
                    raise EngineFailed("the request was aborted")
                self._form.add(delta)
