"""A stand-in for the engine: says what it was given, and remembers what it was asked."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import httpx2
import msgspec
from fastapi import FastAPI
from starlette.types import ASGIApp

from configs.schema import ApiConfig, Config, ModelConfig
from engine.types import EngineClient, EngineStatus, FinishReason, GenerateRequest, RequestOutput, TokenLogprob
from serve_app import app
from serve_app.model.registry import ShowFleet
from serve_app.model.text_model import TextModel
from serve_app.tenants.key_store import KeyStore
from serve_app.workers.pool import WorkerPool
from tests.serve_app.toy import byte_tokens, toy_model

WORKERS = WorkerPool()  # of all tests: they know whatever a test has shared


def build_app(
    client: EngineClient,
    config: Config,
    models: Mapping[str, TextModel],
    *,
    behind_serve: bool = False,
    stores: app.OpenStore | None = None,
    fleet: ShowFleet | None = None,
) -> FastAPI:
    """Ingresses that share `stores` are those of one cluster."""
    keys = KeyStore(config, environment={}, secret=b"of all ingresses")
    return app.build_app(client, config, models, WORKERS, keys, app.Hosting(behind_serve, stores=stores, fleet=fleet))


class ScriptedClient:
    """Plays `script` for every request; an exception in it is raised, a float is a pause in seconds."""

    def __init__(self, script: Iterable[RequestOutput | Exception | float] = (), max_model_len: int = 512) -> None:
        self.script = list(script)
        self.max_model_len = max_model_len
        self.requests: list[GenerateRequest] = []
        self.stopped: list[tuple[str, int]] = []
        self.num_closed = 0
        self.closed = asyncio.Event()
        self.healthy = True

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput]:
        self.requests.append(request)
        try:
            for item in self.script:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, RequestOutput):
                    yield msgspec.structs.replace(item, request_id=request.request_id)
                else:
                    await asyncio.sleep(item)
        finally:
            self.num_closed += 1
            self.closed.set()

    def stop_choice(self, request_id: str, index: int) -> None:
        self.stopped.append((request_id, index))

    async def status(self, model: str) -> EngineStatus:
        if not self.healthy:
            raise ConnectionError("gone")
        return EngineStatus(
            model=model,
            max_model_len=self.max_model_len,
            num_running=0,
            num_waiting=0,
            num_waiting_tokens=0,
            num_blocks=1,
            num_free_blocks=1,
            block_size=16,
        )


def says(
    text: str,
    *,
    index: int = 0,
    finish: FinishReason | None = "stop",
    eos: bool = True,
    sizes: Sequence[int] = (1,),
    logprobs: bool = False,
    cached: int = 0,
) -> list[RequestOutput]:
    """One choice's chunks: a token per byte, `sizes` of them at a time in turn, the end-of-sequence token last."""
    tokens = byte_tokens(text) + ((2,) if eos and finish == "stop" else ())
    chunks: list[RequestOutput] = []
    start = 0
    while start < len(tokens) or not chunks:
        piece = tokens[start : start + sizes[len(chunks) % len(sizes)]]
        last = start + len(piece) == len(tokens)
        told = tuple(TokenLogprob(t, -0.5, ((t, -0.5), (t + 1, -1.5), (2, float("-inf")))) for t in piece)
        chunks.append(
            RequestOutput("", index, start, piece, finish if last else None, told if logprobs else None, cached)
        )
        start += len(piece)
    return chunks


def config(api: ApiConfig | None = None, names: Mapping[str, tuple[str, ...]] | None = None) -> Config:
    served = names or {"toy": ("org/alias",)}
    models = tuple(ModelConfig(served_model_name=(name, *aliases), model="unused") for name, aliases in served.items())
    return Config(models=models, api=api or ApiConfig())


@asynccontextmanager
async def serving(
    client: ScriptedClient, api: ApiConfig | None = None, models: Mapping[str, TextModel] | None = None
) -> AsyncIterator[httpx2.AsyncClient]:
    """An HTTP client of the application, without a socket."""
    models = models or {"toy": toy_model()}
    names = {name: ("org/alias",) if len(models) == 1 else () for name in models}
    async with talking_to(build_app(client, config(api, names), models)) as http:
        yield http


def talking_to(asgi: ASGIApp) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(asgi, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://test")


def chat(text: str = "hi", **fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def events(body: str) -> list[object]:
    """The JSON of every event; "[DONE]" as it is. Fails on anything that is no event or comment."""
    found: list[object] = []
    assert body.endswith("\n\n")
    for block in body[:-2].split("\n\n"):
        if block.startswith(":"):
            continue
        assert block.startswith("data: ") and "\n" not in block
        data = block.removeprefix("data: ")
        found.append(data if data == "[DONE]" else msgspec.json.decode(data))
    return found
