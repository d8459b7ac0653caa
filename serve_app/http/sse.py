"""Writing server-sent events fast: constant parts are bytes made once, an event is written for every token."""

import msgspec

from serve_app.generation.reply import Usage

__all__ = ["DONE", "event", "event_head", "json_text"]

DONE = b"data: [DONE]\n\n"

encode = msgspec.json.encode


def event_head(id_: str, kind: str, created: int, model: str) -> bytes:
    """The beginning of every event of an answer, up to its `choices`."""
    fixed = {"id": id_, "object": kind, "created": created, "model": model}
    return b"data: " + encode(fixed)[:-1] + b',"choices":['


def event(start: bytes, choice: bytes, fingerprint: str | None, usage: Usage | None) -> bytes:
    """A whole event. `choice` is JSON or empty."""
    parts = [start, choice, b"]"]
    if fingerprint is not None:
        parts += (b',"system_fingerprint":', encode(fingerprint))
    if usage is not None:
        parts += (b',"usage":', encode(usage.shown()))
    parts.append(b"}\n\n")
    return b"".join(parts)


def json_text(text: str) -> bytes:
    """A JSON string without the characters that line readers other than SSE's take for an end of line."""
    data = encode(text)
    if text.isascii():
        return data
    return (
        data.replace(b"\xc2\x85", rb"\u0085").replace(b"\xe2\x80\xa8", rb"\u2028").replace(b"\xe2\x80\xa9", rb"\u2029")
    )
