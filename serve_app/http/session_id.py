"""What a client says to keep its requests on one replica, where their prefix is: in a header, or in the body."""

from typing import Any

from fastapi import Request

from engine.errors import RequestError

__all__ = ["SESSION_HEADER", "session_id"]

MAX_CHARS = 256

# for `openapi_extra`
SESSION_HEADER: dict[str, Any] = {
    "parameters": [
        {
            "name": "X-Session-Id",
            "in": "header",
            "required": False,
            "description": "requests with the same one go to the same replica",
            "schema": {"type": "string", "maxLength": MAX_CHARS},
        }
    ]
}


def session_id(request: Request, from_body: str) -> str:
    """What the client calls its session, "" if it does not. Raises RequestError."""
    session = request.headers.get("x-session-id", "") or from_body
    if len(session) > MAX_CHARS:
        raise RequestError(f"X-Session-Id: {len(session)} characters, at most {MAX_CHARS}", param="X-Session-Id")
    return session
