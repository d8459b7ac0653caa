"""A streamed answer whose line is lost in the middle: the client comes back, and gets exactly the rest."""

import json
import os
import secrets
import time
from collections.abc import Iterator
from typing import Any

import httpx

BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
HEADERS = {"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'EMPTY')}"}
MAX_FAILURES = 8  # in a row


def resumed(http: httpx.Client, body: dict[str, Any], lose_line_after: int) -> Iterator[dict[str, Any]]:
    """The events of an answer, each once, whatever happens to the line."""
    headers = {"Idempotency-Key": secrets.token_hex(16)}  # makes the stream resumable
    num_events = num_failures = 0
    while num_failures < MAX_FAILURES:
        try:
            with http.stream("POST", "/chat/completions", json=body, headers=headers) as response:
                if response.status_code == 204:  # the last event was the end
                    return
                if response.status_code < 500:
                    response.raise_for_status()
                event_id = ""
                for line in response.iter_lines():
                    if line.startswith("id: "):
                        event_id = line.removeprefix("id: ")
                    elif line.startswith("data: "):
                        headers["Last-Event-ID"], num_failures = event_id, 0
                        if line == "data: [DONE]":
                            return
                        yield json.loads(line.removeprefix("data: "))
                        num_events += 1
                        if num_events == lose_line_after:
                            print(" [line lost] ", end="", flush=True)
                            break
        except httpx.TransportError:
            pass
        num_failures += 1
        time.sleep(min(10.0, 0.1 * 2**num_failures))
    raise ConnectionError(f"the server did not answer {MAX_FAILURES} times in a row")


with httpx.Client(base_url=BASE_URL, headers=HEADERS, timeout=60) as http:
    asked = {
        "model": http.get("/models").json()["data"][0]["id"],
        "messages": [{"role": "user", "content": "Tell me about AI"}],
        "max_tokens": 60,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    for chunk in resumed(http, asked, lose_line_after=20):
        for choice in chunk["choices"]:
            print(choice["delta"].get("content", ""), end="", flush=True)
        if chunk.get("usage"):
            print(f"\n{chunk['usage']['completion_tokens']} tokens")
