"""A cheap client of many streams: it counts events instead of parsing them."""

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from typing import cast

import msgspec

__all__ = ["Samples", "stream_for"]

TOKEN = b'"delta":{"content":'  # an event that brings text
END = b"0\r\n\r\n"  # of a chunked answer


class Samples(msgspec.Struct):
    """The counts and times of all streams. Times are of time.monotonic()."""

    first_token_s: list[float]
    gaps_s: list[float]  # between the tokens of one stream; 0 for those that came together
    arrived_s: list[float]  # when each token came


class _Stream(asyncio.Protocol):
    """Sends one request after the other on one connection."""

    def __init__(self, request: Callable[[], bytes], until_s: float, samples: Samples) -> None:
        """`request`: makes the next one."""
        self._request = request
        self._until_s = until_s
        self._samples = samples
        self._rest = b""  # the last bytes, which may begin a marker
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        self._asked_s = time.monotonic()
        self._last_s = 0.0
        self._transport.write(self._request())

    def data_received(self, data: bytes) -> None:
        now_s = time.monotonic()
        text = self._rest + data
        for _ in range(text.count(TOKEN)):
            self._samples.arrived_s.append(now_s)
            if self._last_s == 0.0:
                self._samples.first_token_s.append(now_s - self._asked_s)
            else:
                self._samples.gaps_s.append(now_s - self._last_s)
            self._last_s = now_s
        self._rest = text[1 - len(TOKEN) :]
        if text.endswith(END):
            self._rest = b""
            if now_s < self._until_s:
                self._ask()
            else:
                self._transport.close()
        elif text.startswith(b"HTTP/1.1 ") and len(text) > 12 and text[9:12] != b"200":
            self._fail(RuntimeError(text[:400].decode()))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def _fail(self, error: Exception) -> None:
        self.over.set_exception(error)
        self._transport.abort()


async def stream_for(
    port: int, body: dict[str, object], until_s: float, samples: Samples, *, is_resumable: bool = False
) -> None:
    """Streams answers one after the other until that time, and the last one to its end.

    is_resumable   each with an Idempotency-Key
    """
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n"
    )

    def request() -> bytes:
        key = f"Idempotency-Key: {secrets.token_hex(16)}\r\n" if is_resumable else ""
        return f"{head}{key}\r\n".encode() + data

    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(lambda: _Stream(request, until_s, samples), "127.0.0.1", port)
    await stream.over
