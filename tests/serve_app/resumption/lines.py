"""Lines to ingresses of one cluster, in this process, which are cut after any byte; and an engine that is never twice
the same but for its tokens.
"""

import asyncio
import random
import re
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from configs.schema import ApiConfig, IngressConfig
from engine.types import EngineClient, EngineStatus, GenerateRequest, RequestOutput
from serve_app.model.text_model import TextModel
from serve_app.state.store import MemoryStore, StateStore, StoreLimits
from tests.serve_app.scripted import build_app, config

EVENT_ID = re.compile(rb"^id: (\S+)$", re.MULTILINE)
COMMENT = re.compile(rb"^:.*\n\n", re.MULTILINE)


class Cluster:
    """Ingresses over one store."""

    def __init__(self, model: TextModel, api: ApiConfig | None = None, max_stream_bytes: int = 1_048_576) -> None:
        limits = IngressConfig(max_stream_bytes=max_stream_bytes)
        self._model, self._config = model, msgspec.structs.replace(config(api), ingress=limits)
        self.stores: dict[str, MemoryStore] = {}

    def ingress(self, client: EngineClient) -> Any:
        return build_app(client, self._config, {self._config.models[0].name: self._model}, stores=self._store)

    def _store(self, kind: str, limits: StoreLimits) -> StateStore:
        return self.stores.setdefault(kind, MemoryStore(limits))


class Answer(msgspec.Struct):
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def events(self) -> bytes:
        """The whole events, without comments."""
        return COMMENT.sub(b"", self.body[: self.body.rfind(b"\n\n") + 2] if b"\n\n" in self.body else b"")

    @property
    def num_events(self) -> int:
        return len(EVENT_ID.findall(self.events))

    @property
    def last_id(self) -> str | None:
        found = EVENT_ID.findall(self.events)
        return found[-1].decode() if found else None


async def ask(
    app: Any,
    path: str,
    body: dict[str, Any] | None,
    headers: dict[str, str] | None = None,
    cut: int | None = None,
    method: str = "POST",
) -> Answer:
    """Asks, and cuts the line behind `cut` bytes."""
    data = msgspec.json.encode(body) if body is not None else b""
    path, _, query = path.partition("?")
    given = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": query.encode(),
        "headers": [(b"host", b"test"), *given],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
    }
    answer, is_asked, gone = Answer(0, b"", {}), False, asyncio.Event()

    async def receive() -> dict[str, Any]:
        nonlocal is_asked
        if not is_asked:
            is_asked = True
            return {"type": "http.request", "body": data, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        elif not gone.is_set():
            answer.body += message.get("body", b"")
            if cut is not None and len(answer.body) >= cut:
                answer.body = answer.body[:cut]
                gone.set()
        await asyncio.sleep(0)

    await app(scope, receive, send)
    return answer


class UnsteadyClient:
    """An engine client that gives some tokens together, one choice before others, and finds other prefixes cached."""

    def __init__(self, client: EngineClient, seed: int) -> None:
        self._client, self._random = client, random.Random(seed)
        self.num_asked = 0

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput]:
        self.num_asked += 1
        waiting: list[list[RequestOutput]] = [[] for _ in range(request.n)]
        cached = self._random.randrange(len(request.prompt))
        async for output in self._client.generate(request):
            waiting[output.index].append(msgspec.structs.replace(output, cached_tokens=cached, num_migrations=1))
            for index in self._random.sample(range(request.n), request.n):
                if waiting[index] and (self._random.random() < 0.4 or waiting[index][-1].finish_reason):
                    yield _joined(waiting[index])
                    waiting[index] = []

    def stop_choice(self, request_id: str, index: int) -> None:
        self._client.stop_choice(request_id, index)

    async def status(self, model: str) -> EngineStatus:
        return await self._client.status(model)


def _joined(outputs: list[RequestOutput]) -> RequestOutput:
    logprobs = [one.logprobs for one in outputs if one.logprobs is not None]
    return msgspec.structs.replace(
        outputs[-1],
        start=outputs[0].start,
        tokens=tuple(token for one in outputs for token in one.tokens),
        logprobs=tuple(entry for part in logprobs for entry in part) if logprobs else None,
        prompt_logprobs=outputs[0].prompt_logprobs,
    )
