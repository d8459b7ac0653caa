"""Session ids (X-Session-Id): keep a session's requests on one replica, which has their prefix cached."""

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
    """The client's session id, "" if there is none. Raises RequestError."""
    from_header = request.headers.get("x-session-id", "")
    session, field = (from_header, "X-Session-Id") if from_header else (from_body, "session_id")
    if len(session) > MAX_CHARS:
        raise RequestError(f"{field}: must have at most {MAX_CHARS} characters, got {len(session)}", param=field)
    return session
