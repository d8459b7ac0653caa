"""Request ids: the client's own (X-Request-Id), or a new one, in every answer's headers (Request-Id is Anthropic's)."""

import re
import secrets

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["RequestIds", "use_request_id"]

MAX_CHARS = 128
UUID = rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


class RequestIds:
    """Middleware: puts the id into `scope["state"]["request_id"]` and into the answer's X-Request-Id.

    behind_serve   Ray Serve adds an id to requests without one, a UUID in the last header, and writes the answer's
                   header itself
    """

    def __init__(self, app: ASGIApp, *, behind_serve: bool = False) -> None:
        self._app = app
        self._behind_serve = behind_serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        asked = _clean(Headers(scope=scope).get("x-request-id", ""))
        state["asked_request_id"] = "" if self._behind_serve and _is_of_serve(scope) else asked
        state["request_id"] = asked or secrets.token_hex(16)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Request-Id"] = state["request_id"]
                if not self._behind_serve:
                    headers["X-Request-Id"] = state["request_id"]
            await send(message)

        await self._app(scope, receive, send_with_id)


def use_request_id(request: Request, from_body: str) -> str:
    """The request's id, which the body may set if no header does."""
    if not request.state.asked_request_id and (cleaned := _clean(from_body)):
        request.state.request_id = cleaned
    return str(request.state.request_id)


def _is_of_serve(scope: Scope) -> bool:
    name, value = scope["headers"][-1] if scope["headers"] else (b"", b"")
    return name.lower() == b"x-request-id" and re.fullmatch(UUID, value) is not None


def _clean(asked: str) -> str:
    return re.sub(r"[^A-Za-z0-9._:-]", "", asked[: 8 * MAX_CHARS])[:MAX_CHARS]
