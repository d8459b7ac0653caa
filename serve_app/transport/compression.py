"""Response compression (gzip, zstd): of documents as a whole, of streams event by event, without delay.

An event costs two microseconds and shrinks to a twentieth, since events repeat each other. Windows are small, since a
thousand streams may be open.
"""

import re
import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["CompressAnswers", "accepted_encoding"]

SMALL_BYTES = 512  # smaller documents are not compressed
KINDS = ("application/json", "text/event-stream", "text/html")


class Compressor(Protocol):
    def piece(self, data: bytes) -> bytes: ...
    def end(self, data: bytes) -> bytes: ...


class Gzip:
    def __init__(self) -> None:
        self._state = zlib.compressobj(1, zlib.DEFLATED, 16 + 12, 5)  # gzip's header, a window of 4 KiB

    def piece(self, data: bytes) -> bytes:
        """The compressed data, flushed so that it can be decompressed at once."""
        return self._state.compress(data) + self._state.flush(zlib.Z_SYNC_FLUSH)

    def end(self, data: bytes) -> bytes:
        return self._state.compress(data) + self._state.flush()


class Zstd:
    def __init__(self) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=15)
        self._state = zstandard.ZstdCompressor(compression_params=parameters).compressobj()

    def piece(self, data: bytes) -> bytes:
        """The compressed data, flushed so that it can be decompressed at once."""
        return self._state.compress(data) + self._state.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def end(self, data: bytes) -> bytes:
        return self._state.compress(data) + self._state.flush()


ENCODINGS: dict[str, Callable[[], Compressor]] = {"zstd": Zstd, "gzip": Gzip}  # the better one first


class CompressAnswers:
    """Middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = accepted_encoding(Headers(scope=scope).get("accept-encoding", "")) if scope["type"] == "http" else None
        await self._app(scope, receive, _Answer(send, name).send if name is not None else send)


class _Answer:
    """The compression of one answer. Its start waits for the first body, which decides whether it is compressed."""

    def __init__(self, send: Send, encoding: str) -> None:
        self._send = send
        self._encoding = encoding
        self._start: Message | None = None
        self._compressor: Compressor | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        start, self._start = self._start, None
        if start is not None:
            self._begin(start, message)
            await self._send(start)
        if self._compressor is None:
            await self._send(message)
            return
        data, more = message.get("body", b""), message.get("more_body", False)
        body = self._compressor.piece(data) if more else self._compressor.end(data)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    def _begin(self, start: Message, first: Message) -> None:
        headers = MutableHeaders(scope=start)
        if not headers.get("content-type", "").startswith(KINDS) or "content-encoding" in headers:
            return
        headers.add_vary_header("Accept-Encoding")
        if first.get("more_body", False) or len(first.get("body", b"")) >= SMALL_BYTES:
            self._compressor = ENCODINGS[self._encoding]()
            headers["Content-Encoding"] = self._encoding
            if "content-length" in headers:
                del headers["content-length"]


def accepted_encoding(header: str) -> str | None:
    """The supported encoding that the client prefers; of equals the better one."""
    weights = {}
    for item in header.split(","):
        name, _, parameters = item.partition(";")
        weight = re.fullmatch(r"\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*", parameters)
        weights[name.strip().lower()] = float(weight[1]) if weight else float(not parameters.strip())
    best = max(ENCODINGS, key=lambda name: weights.get(name, weights.get("*", 0.0)))
    return best if weights.get(best, weights.get("*", 0.0)) > 0 else None
