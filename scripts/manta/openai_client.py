"""A small client of OpenAI-compatible servers over the standard library: the models, and streamed chat completions."""

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import msgspec

__all__ = ["Delta", "OpenAIClient", "ServerError", "api_key_of"]

Message = dict[str, str]


class ServerError(Exception):
    """An error of the server or the connection, with a message for the user."""


class Delta(msgspec.Struct, frozen=True):
    """A delta of a streamed answer."""

    content: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None


class OpenAIClient:
    """A client of the API at a base URL such as http://127.0.0.1:8000/v1."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {api_key}"}

    def models(self) -> list[str]:
        """The ids that the server lists. Raises ServerError."""
        with self._open("/models") as response:
            return [str(model["id"]) for model in json.load(response)["data"]]

    def stream(self, model: str, messages: Sequence[Message], **fields: Any) -> Generator[Delta]:
        """The deltas of the answer; closing the iterator aborts the request. Raises ServerError."""
        body = {"model": model, "messages": list(messages), "stream": True, **fields}
        with self._open("/chat/completions", {**body, "stream_options": {"include_usage": True}}) as response:
            try:
                yield from _deltas(response)
            except (OSError, http.client.HTTPException) as error:
                raise ServerError(f"the connection ended within the answer: {error or type(error).__name__}") from None

    def _open(self, path: str, body: Mapping[str, Any] | None = None) -> http.client.HTTPResponse:
        data = json.dumps(body).encode() if body is not None else None
        try:
            request = urllib.request.Request(self.base_url + path, data=data, headers=self._headers)
            response: http.client.HTTPResponse = urllib.request.urlopen(request)
            return response
        except urllib.error.HTTPError as error:
            raise ServerError(f"{error.code}: {_message(error.read())}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ServerError(f"{self.base_url} does not answer: {reason}. Is a server running there?") from None


def api_key_of(option: str | None) -> str:
    """The key of an option, else of OPENAI_API_KEY. Servers without keys take any."""
    return option or os.environ.get("OPENAI_API_KEY") or "EMPTY"


def _deltas(lines: Iterator[bytes] | http.client.HTTPResponse) -> Iterator[Delta]:
    for line in lines:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise ServerError(_message(line[6:]))
        choice: dict[str, Any] = next(iter(event.get("choices") or ()), {})
        delta = choice.get("delta") or {}
        yield Delta(
            delta.get("content") or "",
            delta.get("reasoning_content") or delta.get("reasoning") or "",
            choice.get("finish_reason"),
            event.get("usage"),
        )


def _message(body: bytes) -> str:
    """The message of an error body, in any format."""
    try:
        error = json.loads(body)["error"]
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")[:1000].strip() or "no reason was given"
