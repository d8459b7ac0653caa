"""Ids of streams and of their events, and what a client has of a stream: Last-Event-ID and Idempotency-Key."""

import hmac
import re
import secrets
from collections.abc import Mapping
from typing import Any

import msgspec

from engine.errors import RequestError
from serve_app.transport.session_id import SESSION_HEADER

__all__ = ["KEY_HEADER", "LAST_HEADER", "STREAM_HEADERS", "ResumePoint", "new_stream_id", "resume_point"]

KEY_HEADER, LAST_HEADER = "Idempotency-Key", "Last-Event-ID"
MAX_KEY_CHARS = 256
ID_BYTES = 16
EVENT_ID = re.compile(r"([0-9a-f]{32})\.(\d{1,9})")

# of routes that stream, for `openapi_extra`
STREAM_HEADERS: dict[str, Any] = {
    "parameters": [
        *SESSION_HEADER["parameters"],
        {
            "name": KEY_HEADER,
            "in": "header",
            "required": False,
            "description": "makes a stream resumable; a request that repeats it gets the same stream",
            "schema": {"type": "string", "maxLength": MAX_KEY_CHARS},
        },
        {
            "name": LAST_HEADER,
            "in": "header",
            "required": False,
            "description": "the id of the last event that the client has: it gets the rest of that stream",
            "schema": {"type": "string", "pattern": f"^{EVENT_ID.pattern}$"},
        },
    ]
}


class ResumePoint(msgspec.Struct, frozen=True):
    """A stream, and what its client has of it."""

    stream_id: str  # 32 hex digits that nobody can guess
    after: int = -1  # number of the last event that the client has; -1: none
    header: str = KEY_HEADER  # that names the stream


def new_stream_id() -> str:
    return secrets.token_hex(ID_BYTES)


def resume_point(headers: Mapping[str, str], path: str, key: bytes) -> ResumePoint | None:
    """None for a request without such headers. Raises RequestError for malformed ones.

    path   of the route: one Idempotency-Key names other streams of other routes
    key    the tenant's, which all ingresses know
    """
    if last := headers.get(LAST_HEADER, "").strip():
        found = EVENT_ID.fullmatch(last)
        if found is None:
            message = f"{LAST_HEADER}: must be the id of an event of this server's resumable streams, got {last[:80]!r}"
            raise RequestError(message, param=LAST_HEADER)
        return ResumePoint(found[1], int(found[2]), LAST_HEADER)
    asked = headers.get(KEY_HEADER, "").strip()
    if not asked:
        return None
    if len(asked) > MAX_KEY_CHARS:
        message = f"{KEY_HEADER}: must have at most {MAX_KEY_CHARS} characters, got {len(asked)}"
        raise RequestError(message, param=KEY_HEADER)
    proof = hmac.digest(key, f"stream:{path}:{asked}".encode(), "sha256")
    return ResumePoint(proof[:ID_BYTES].hex())
