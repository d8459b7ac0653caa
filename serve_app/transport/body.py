"""Request body: bounded, strict JSON, decompressed, never parsed for long on the event loop.

A small body is parsed at once, a large one where it is prepared (preparation.py). Bodies that would hold the GIL for
long (hundreds of thousands of values, deep nesting) are refused before they are parsed.
"""

import asyncio
import re
import zlib
from typing import Any

import msgspec
import zstandard
from fastapi import Request
from starlette.exceptions import HTTPException

from engine.errors import RequestError
from serve_app.text.json_text import LimitError, parse_json

__all__ = ["SMALL_BYTES", "parse_object", "read_body"]

SMALL_BYTES = 16_384  # a body that is handled within a few milliseconds

HALF_A_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body. Raises 413 as soon as it is too large, 400 for a content type other than JSON."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise RequestError(f"unsupported media type {kind!r}: send Content-Type: application/json")
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip", "zstd"):
        raise RequestError(f"content encoding {encoding[:40]!r} is not read: send gzip, zstd or none")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:18]) > max_bytes:
        raise _too_large(max_bytes)
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > max_bytes:
            raise _too_large(max_bytes)
    if encoding == "identity":
        return bytes(data)
    return await asyncio.to_thread(_unpacked, bytes(data), encoding, max_bytes)


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in the body. Raises RequestError for anything else, NaN and lone surrogates included."""
    try:
        value = parse_json(data)
    except LimitError as error:
        raise RequestError(f"the body {error}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestError(_parse_fault(data, str(error))) from None
    if not isinstance(value, dict):
        raise RequestError("the body is not a JSON object")
    return value


def _parse_fault(data: bytes, error: str) -> str:
    """The message for a body that is no JSON, in place of some of the parser's own."""
    if not data.strip():
        return "the body is empty: send a JSON object"
    try:
        data.decode()
    except UnicodeDecodeError as fault:
        return f"the body is not UTF-8: byte {data[fault.start]:#04x} at {fault.start}"
    if "surrogate" in error or HALF_A_PAIR.search(data):
        return "the body is not JSON: a string has half of a surrogate pair, as a text has that is cut within an emoji"
    if "truncated" in error:
        return "the body is not JSON: it is cut off"
    return f"the body is not JSON: {error}"


def _unpacked(data: bytes, encoding: str, max_bytes: int) -> bytes:
    """The decompressed body, at most max_bytes + 1 of it."""
    try:
        if encoding == "gzip":
            state = zlib.decompressobj(31)
            unpacked, whole = state.decompress(data, max_bytes + 1), state.eof
        else:
            reader = zstandard.ZstdDecompressor(max_window_size=2**23).stream_reader(data)
            unpacked, whole = reader.read(max_bytes + 1), True
    except (zlib.error, zstandard.ZstdError) as error:
        raise RequestError(f"the body is not {encoding}: {error}") from None
    if len(unpacked) > max_bytes:
        raise _too_large(max_bytes)
    if not whole:
        raise RequestError(f"the body is not {encoding}: it is cut off")
    return unpacked


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"the body has more than {max_bytes} bytes")
