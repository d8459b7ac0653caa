"""The HTTP response of stored or running events: a client that leaves ends nothing."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.pipeline.responses import EVENT_HEADERS, StreamLimits
from serve_app.transport.connection import ClientGone, Outbox, while_connected

__all__ = ["EventResponse"]


class EventResponse(Response):
    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], limits: StreamLimits) -> None:
        super().__init__()
        self._events, self._limits = events, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits = self._limits
        try:
            async with while_connected(receive), aclosing(self._events) as events:
                await send({"type": "http.response.start", "status": 200, "headers": EVENT_HEADERS})
                async with Outbox(send, max_bytes=limits.max_waiting_bytes, keep_alive_s=limits.keep_alive_s) as outbox:
                    async for event in events:
                        outbox.put(event)
        except ClientGone:
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
