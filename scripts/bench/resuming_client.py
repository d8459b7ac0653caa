"""A client of resumable streams: it comes back with the last event's id until it has the end."""

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec

from scripts.bench.faults import CITY, KINDS, STORY

__all__ = ["REQUESTS", "Resumed", "resumed"]

EVENT_ID = re.compile(rb"^id: (\S+)$", re.MULTILINE)
ENDS = (b"data: [DONE]", b"event: message_stop", b"event: response.completed", b"event: response.incomplete")
PAUSE_S = 0.2  # before it comes back

# name -> route and body: chat completions of every kind, with the server's seed where the kind has none; and the others
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        kind: ("/chat/completions", {"messages": STORY, "stream_options": {"include_usage": True}, **asked})
        for kind, asked in KINDS.items()
    },
    "no seed": ("/chat/completions", {"messages": STORY, "temperature": 1.0, "max_tokens": 90}),
    "completion": ("/completions", {"prompt": "A lighthouse", "temperature": 1.0, "max_tokens": 90, "logprobs": 2}),
    "messages": ("/messages", {"messages": STORY, "temperature": 1.0, "max_tokens": 90}),
    "messages, tool call": (
        "/messages",
        {
            "messages": STORY,
            "max_tokens": 90,
            "tools": [{"name": "get_weather", "input_schema": CITY}],
            "tool_choice": {"type": "any"},
        },
    ),
    "responses": ("/responses", {"input": STORY, "temperature": 1.0, "max_output_tokens": 90}),
    "responses, tool call": (
        "/responses",
        {
            "input": STORY,
            "max_output_tokens": 90,
            "tools": [{"type": "function", "name": "get_weather", "parameters": CITY}],
            "tool_choice": "required",
        },
    ),
}


class Resumed(msgspec.Struct):
    """A stream as its client has it."""

    events: bytes = b""  # with ids
    longest_gap_s: float = 0.0
    num_lines: int = 0  # connections that brought events
    error: str = ""

    @property
    def last_id(self) -> str:
        last = self.events[:-2].rfind(b"\n\n")
        found = EVENT_ID.search(self.events, last + 1)
        return found[1].decode() if found else ""


async def resumed(
    session: aiohttp.ClientSession,
    url: str,
    request: str,
    key: str,
    *,
    is_cut: Callable[[int], bool] = lambda num_bytes: False,
    limit_s: float = 120.0,
) -> Resumed:
    """`is_cut`: whether the client's line is lost now, after so many bytes."""
    path, body = REQUESTS[request]
    stream, began_s = Resumed(), time.monotonic()
    last_s = began_s
    while time.monotonic() - began_s < limit_s:
        headers = {"Idempotency-Key": key, "Accept-Encoding": "identity"}
        if stream.events:
            headers["Last-Event-ID"] = stream.last_id
        try:
            async with session.post(url + path, json=body | {"stream": True}, headers=headers) as response:
                if response.status == 204:
                    return stream
                if 400 <= response.status < 500 and response.status != 429:
                    stream.error = f"{response.status} {(await response.text())[:300]}"
                    return stream
                rest, is_first = b"", True
                async for piece in response.content.iter_any():
                    if response.status != 200:
                        continue
                    *whole, rest = (rest + piece).split(b"\n\n")
                    events = [event + b"\n\n" for event in whole if EVENT_ID.search(event)]
                    if events:
                        stream.longest_gap_s = max(stream.longest_gap_s, time.monotonic() - last_s)
                        last_s = time.monotonic()
                        stream.num_lines, is_first = stream.num_lines + is_first, False
                        stream.events += b"".join(events)
                        if any(end in event for event in events for end in ENDS):
                            return stream
                    if is_cut(len(stream.events)):
                        response.close()
                        break
        except (aiohttp.ClientError, OSError, TimeoutError):
            pass
        await asyncio.sleep(PAUSE_S)
    stream.error = f"not whole after {limit_s:g} s"
    return stream
