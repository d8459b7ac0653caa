"""Server-sent events (SSE) and the JSON in them, serialized fast."""

import msgspec

__all__ = ["DONE", "json_text"]

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
