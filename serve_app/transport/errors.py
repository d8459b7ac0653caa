"""Error responses: the one table from errors to HTTP status, in OpenAI's shape."""

import logging
import math
import re
from collections.abc import Callable, Sequence

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from typing_extensions import TypedDict

from engine.errors import (
    ContextTooLong,
    EngineFailed,
    MantaError,
    Overloaded,
    RequestError,
    Unavailable,
    UnknownModel,
)

__all__ = ["ErrorDetail", "ErrorResponse", "Fault", "FaultRenderer", "NotFound", "install_error_handlers", "fault_of"]


class NotFound(RequestError):
    """What the request names is not there (any more)."""


# error -> (status, type); the first match, so subclasses come first
TABLE: tuple[tuple[type[MantaError], int, str], ...] = (
    (UnknownModel, 404, "NotFoundError"),
    (NotFound, 404, "NotFoundError"),
    (ContextTooLong, 400, "BadRequestError"),
    (RequestError, 400, "BadRequestError"),
    (Overloaded, 429, "RateLimitError"),
    (Unavailable, 503, "ServiceUnavailableError"),
    (EngineFailed, 500, "InternalServerError"),
)
HTTP_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    413: "RequestTooLargeError",
}


MAX_LOGGED_CHARS = 2_000
MAX_PATH_CHARS = 200  # of a path in a message


class ErrorDetail(TypedDict):
    message: str
    type: str
    param: str | None
    code: int


class ErrorResponse(TypedDict):
    error: ErrorDetail


class Fault(msgspec.Struct, frozen=True):
    """The HTTP response of an error."""

    status: int
    type: str
    message: str
    param: str | None = None
    headers: dict[str, str] = {}

    def body(self) -> bytes:
        error: ErrorDetail = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.status,
        }
        response: ErrorResponse = {"error": error}
        return msgspec.json.encode(response)


# the error response of an API of its own; None for requests of other APIs
FaultRenderer = Callable[[Request, Fault], Response | None]


def fault_of(error: Exception, request_id: str = "") -> Fault:
    """The response of an error. An error that is not ours is logged, and its details are not sent."""
    for kind, status, name in TABLE:
        if isinstance(error, kind):
            wait_s = getattr(error, "retry_after_s", None)
            headers = {"Retry-After": str(max(1, math.ceil(wait_s)))} if wait_s is not None else {}
            return Fault(status, name, _message_of(error, request_id), getattr(error, "param", None), headers)
    logging.getLogger(__name__).error("internal fault under request %s", request_id or "-", exc_info=error)
    return Fault(500, "InternalServerError", "internal error; the server's log has the details")


def _message_of(error: MantaError, request_id: str) -> str:
    """Messages of the engine's libraries have addresses and paths: they are logged, not sent."""
    if not isinstance(error, EngineFailed):
        return str(error)
    logging.getLogger(__name__).error("an engine failed under request %s: %s", request_id or "-", one_line(str(error)))
    return "the engine failed; the server's log has the details"


def one_line(text: str) -> str:
    """The text with control characters escaped, so that it cannot forge log lines or move a terminal's cursor."""
    return text[:MAX_LOGGED_CHARS].encode("unicode_escape").decode()


def install_error_handlers(app: FastAPI, renderers: Sequence[FaultRenderer] = ()) -> None:
    """Answers every exception of a route, and unknown routes: as the first renderer does that takes the request, else
    in OpenAI's shape.
    """

    async def answer(request: Request, error: Exception) -> Response:
        request_id = getattr(request.state, "request_id", "")
        fault = _http_fault(request, error) if isinstance(error, HTTPException) else fault_of(error, request_id)
        request.state.error_type = fault.type  # for what is written about requests (serve_app/logs)
        for render in renderers:
            if (rendered := render(request, fault)) is not None:
                return rendered
        return Response(fault.body(), fault.status, fault.headers, media_type="application/json")

    async def ignore_disconnect(request: Request, error: Exception) -> Response:
        """The client has disconnected while it sent its body."""
        return Response(status_code=499)

    for kind in (MantaError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(ClientDisconnect, ignore_disconnect)


def _suggested_path(request: Request) -> str:
    """The path that a client with a wrong base URL means: /v1 is missing or repeated."""

    def is_known(path: str) -> bool:
        return any(route.matches({**request.scope, "path": path})[0] != Match.NONE for route in request.app.routes)

    if len(request.url.path) > MAX_PATH_CHARS:
        return "/docs lists those that there are"
    end = re.sub(r"^(/v1(?=/))*", "", re.sub("//+", "/", "/" + request.url.path.strip("/")))
    meant = next((path for path in (f"/v1{end}", end) if is_known(path)), None)
    return f"did you mean {meant}?" if meant else "/docs lists those that there are"


def _shown(path: str) -> str:
    return path if len(path) <= MAX_PATH_CHARS else f"{path[:MAX_PATH_CHARS]}..."


def _http_fault(request: Request, error: HTTPException) -> Fault:
    message = error.detail
    if error.status_code == 404:
        message = f"there is no route {_shown(request.url.path)}; {_suggested_path(request)}"
    elif error.status_code == 405:
        message = f"{_shown(request.url.path)} does not take {request.method}"
    kind = HTTP_TYPES.get(error.status_code, "BadRequestError")
    return Fault(error.status_code, kind, message, None, dict(error.headers or {}))
