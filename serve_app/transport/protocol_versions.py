"""HTTP protocol versions: requirements of HTTP/1.0 and 1.1 that uvicorn does not enforce."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.transport.errors import Fault

__all__ = ["ProtocolVersions"]

MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 200


class ProtocolVersions:
    """Middleware: limits the size of headers (RFC 6585), requires Host in HTTP/1.1 (RFC 9112, 3.2), and sends no chunks
    to HTTP/1.0 clients (6.1).

    Such a client gets a stream as a whole, with its length, after its end: uvicorn would send chunks.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        version = scope.get("http_version") if scope["type"] == "http" else None
        if version is not None and (fault := _fault(version, scope["headers"])) is not None:
            await _refuse(send, fault)
        elif version == "1.0":
            await self._app(scope, receive, _BufferedResponse(send))
        else:
            await self._app(scope, receive, send)


class _BufferedResponse:
    """Buffers an answer until it is complete."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if message["type"] != "http.response.body" or self._start is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body", False):
            return
        headers = [(name, value) for name, value in self._start["headers"] if name.lower() != b"content-length"]
        length = (b"content-length", str(len(self._body)).encode())
        await self._send({**self._start, "headers": [*headers, length]})
        await self._send({"type": "http.response.body", "body": bytes(self._body)})


def _fault(version: str, headers: list[tuple[bytes, bytes]]) -> Fault | None:
    num_bytes = sum(len(name) + len(value) for name, value in headers)
    if num_bytes > MAX_HEAD_BYTES or len(headers) > MAX_HEADERS:
        what = f"{len(headers)} headers of {num_bytes} bytes, at most {MAX_HEADERS} of {MAX_HEAD_BYTES} are read"
        return Fault(431, "RequestHeaderFieldsTooLargeError", what)
    if version == "1.1" and not any(name == b"host" for name, _ in headers):
        return Fault(400, "BadRequestError", "Host: missing, every request of HTTP/1.1 has this header", "Host")
    return None


async def _refuse(send: Send, fault: Fault) -> None:
    body = fault.body()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": fault.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
