"""The HTTP responses that run a request: a stream of server-sent events, or one document.

Both wait for the engine's first output before they send a byte, so that a refusal is a proper 4xx or 5xx, and both
abort the request as soon as the client has disconnected.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import EngineFailed
from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.observer import UsageSource
from serve_app.pipeline.renderer import DocumentRenderer, StreamRenderer
from serve_app.transport.connection import ClientGone, Outbox, while_connected
from serve_app.transport.errors import fault_of
from serve_app.transport.sse import KEEP_ALIVE

__all__ = ["EVENT_HEADERS", "DocumentResponse", "StreamLimits", "StreamResponse"]


class StreamLimits(msgspec.Struct, frozen=True):
    max_waiting_bytes: int  # for one slow reader
    keep_alive_s: float
    keep_alive: bytes = KEEP_ALIVE

    def outbox(self, send: Send) -> Outbox:
        """What a stream within these limits is sent through."""
        return Outbox(
            send, max_bytes=self.max_waiting_bytes, keep_alive_s=self.keep_alive_s, keep_alive=self.keep_alive
        )


class StreamResponse(Response):
    """Server-sent events."""

    media_type = "text/event-stream"

    def __init__(
        self,
        deltas: AsyncGenerator[ChoiceDelta],
        output: UsageSource,
        renderer: StreamRenderer,
        limits: StreamLimits,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__()
        self._more = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self._deltas, self._output, self._renderer, self._limits = deltas, output, renderer, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with while_connected(receive):
                await self._stream(send, scope.get("state", {}).get("request_id", ""))
        except ClientGone:
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stream(self, send: Send, request_id: str) -> None:
        output, renderer, limits = self._output, self._renderer, self._limits
        async with aclosing(self._deltas) as deltas:
            delta = await anext(deltas)
            await send({"type": "http.response.start", "status": 200, "headers": [*EVENT_HEADERS, *self._more]})
            async with limits.outbox(send) as outbox:
                outbox.put(renderer.opening(output.usage()))
                try:
                    outbox.put(renderer.delta(delta, output.usage_of(delta.index)))
                    async for delta in deltas:
                        usage = output.usage_of(delta.index) if renderer.wants_usage else None
                        outbox.put(renderer.delta(delta, usage))
                except ClientGone:
                    raise
                except Exception as error:  # the status has been sent: the error becomes an event
                    outbox.put(renderer.fault(fault_of(error, request_id)))
                else:
                    outbox.put(renderer.closing(output.usage()))


EVENT_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # tells proxies not to buffer events
]


class DocumentResponse(Response):
    """One JSON document."""

    media_type = "application/json"

    def __init__(
        self,
        deltas: AsyncGenerator[ChoiceDelta],
        output: UsageSource,
        renderer: DocumentRenderer,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__()
        self._more = headers
        self._deltas, self._output, self._renderer = deltas, output, renderer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with while_connected(receive):
                await self._gather()
        except ClientGone:
            return
        usage = self._output.usage()
        headers = {"X-Migrations": str(usage.num_migrations), **self._more}
        if usage.mixed_kernels:
            headers["X-Mixed-Kernels"] = "true"
        answer = Response(self._renderer.body(usage), headers=headers, media_type=self.media_type)
        await answer(scope, receive, send)

    async def _gather(self) -> None:
        async with aclosing(self._deltas) as deltas:
            async for delta in deltas:
                if delta.finish_reason == "abort":
                    raise EngineFailed("the request was aborted")
                self._renderer.add(delta)
