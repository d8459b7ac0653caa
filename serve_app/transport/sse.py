"""Server-sent events (SSE) and the JSON in them, serialized fast."""

import msgspec

__all__ = ["DONE", "KEEP_ALIVE", "json_text", "typed_event"]

KEEP_ALIVE = b": keep-alive\n\n"  # a comment
DONE = b"data: [DONE]\n\n"

encode = msgspec.json.encode


def json_text(text: str) -> bytes:
    """A JSON string without raw Unicode line separators, at which generic line readers would split."""
    data = encode(text)
    if text.isascii():
        return data
    return (
        data.replace(b"\xc2\x85", rb"\u0085").replace(b"\xe2\x80\xa8", rb"\u2028").replace(b"\xe2\x80\xa9", rb"\u2029")
    )


def typed_event(kind: str, data: bytes) -> bytes:
    """An event with a name. `data` is JSON."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)
