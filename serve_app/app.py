"""Builds the FastAPI application: middleware, routes and their dependencies."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from hashlib import sha256
from importlib import metadata

import msgspec
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from configs.schema import Config
from engine.types import EngineClient
from serve_app.api.openapi import complete_schema
from serve_app.chat.routes import chat_router
from serve_app.completion.routes import completion_router
from serve_app.logs.record_requests import TRACE_HEADER, RecordRequests
from serve_app.messages.errors import render_fault as messages_fault
from serve_app.messages.routes import messages_router
from serve_app.metrics.key_usage import ExportUsage
from serve_app.metrics.request_metrics import Metrics
from serve_app.model.registry import Registry, ShowFleet
from serve_app.model.text_model import TextModel
from serve_app.pipeline.answer import AnswerPipeline
from serve_app.pipeline.auth import Authenticator
from serve_app.pipeline.parser import RequestParser
from serve_app.pipeline.preparation import Preparation
from serve_app.pipeline.resumable import OnResumed, ResumableStreams
from serve_app.preparation.grammar_validator import GrammarValidator
from serve_app.responses.conversation_routes import conversation_router
from serve_app.responses.errors import render_fault as responses_fault
from serve_app.responses.kept import KeptResponses
from serve_app.responses.routes import responses_router
from serve_app.result_cache.cache import ResultCache
from serve_app.resumption.records import StreamRecords
from serve_app.server.model_routes import model_router
from serve_app.server.open_requests import CountOpenRequests, OpenRequests
from serve_app.server.page_routes import page_router
from serve_app.server.request_logs import RequestLogs
from serve_app.server.state_routes import health_router, state_router
from serve_app.server.status_routes import status_router
from serve_app.server.stream_routes import stream_router
from serve_app.server.token_routes import token_router
from serve_app.state.redis_store import RedisStore
from serve_app.state.store import MemoryStore, StateStore, StoreLimits
from serve_app.tenants.key_store import KeyStore
from serve_app.tracing.otel import Tracer
from serve_app.transport.compression import CompressAnswers
from serve_app.transport.errors import install_error_handlers
from serve_app.transport.head_requests import HeadRequests
from serve_app.transport.options_requests import OptionsRequests
from serve_app.transport.protocol_versions import ProtocolVersions
from serve_app.transport.request_id import RequestIds
from serve_app.workers.pool import WorkerPool

__all__ = ["Hosting", "OpenStore", "build_app"]

logger = logging.getLogger(__name__)

LOCAL_STATE = (
    "Responses, conversations and streams are kept in the memory of one ingress each: another one cannot continue "
    "them. Set api.state_redis_url to share them."
)

# modules that prepare requests: the fork server imports them before it forks workers
PREPARING = (
    "serve_app.chat.adapter",
    "serve_app.completion.adapter",
    "serve_app.messages.adapter",
    "serve_app.responses.adapter",
    "serve_app.server.token_routes",
)


# of a kind of state, under these limits
OpenStore = Callable[[str, StoreLimits], StateStore]


class Hosting(msgspec.Struct, frozen=True):
    behind_serve: bool = False  # hosted by Ray Serve, which sets request ids itself
    fleet: ShowFleet | None = None  # of a cluster's replicas, for /status
    stores: OpenStore | None = None  # None: in Redis or in this process's memory, as the config says
    traces: Tracer | None = None  # None: as the config says
    usage: ExportUsage | None = None  # counts usage by API keys elsewhere too
    on_resumed: OnResumed | None = None  # counts streams that clients come back to elsewhere too


def build_app(
    client: EngineClient,
    config: Config,
    models: Mapping[str, TextModel],
    workers: WorkerPool,
    keys: KeyStore,
    hosting: Hosting | None = None,
) -> FastAPI:
    """OpenAI's and Anthropic's APIs in front of an engine client.

    models    by the name in the config; aliases come from the config
    workers   for work whose cost a client chooses
    keys      API keys
    hosting   what is not the same everywhere
    """
    version = _version()
    # the documentation has routes of its own, for `api.access`
    hosting = hosting or Hosting()
    stores, resume = hosting.stores or _stores(config), config.api.resume
    kept = KeptResponses(stores("responses", StoreLimits.of(config.api)))
    records = StreamRecords(stores("streams", StoreLimits.of_streams(resume)), resume)
    logs = RequestLogs(config.api, version, hosting.traces, hosting.usage)
    metrics = Metrics(key_usage=logs.key_usage, export_resumed=hosting.on_resumed)
    streams = ResumableStreams(records, metrics.on_resumed)
    app = FastAPI(
        title="Manta",
        version=version,
        summary="OpenAI's Chat Completions and Responses APIs, and Anthropic's Messages API",
        openapi_url=None,
        lifespan=_closing(kept, streams, logs),
    )
    registry = Registry(client, config, models, int(time.time()), hosting.fleet)
    auth = Authenticator(keys)
    with_key = auth.guard("key")
    fingerprint = f"manta-{version}-{sha256(msgspec.json.encode(config.models)).hexdigest()[:8]}"
    preparation = Preparation(config.api, models, workers, PREPARING)
    parser = RequestParser(config.api, registry, auth, preparation, records)
    open_requests = OpenRequests()
    validator, results = GrammarValidator(models, workers), ResultCache(config.api, fingerprint)
    pipeline = AnswerPipeline(client, config, validator, results, metrics, streams)
    for router in (chat_router, completion_router, messages_router):
        app.include_router(router(parser, pipeline), prefix="/v1", dependencies=with_key)
    app.include_router(responses_router(parser, pipeline, kept, auth, records), prefix="/v1", dependencies=with_key)
    app.include_router(conversation_router(kept, auth, config.api), prefix="/v1", dependencies=with_key)
    app.include_router(stream_router(streams, auth), prefix="/v1", dependencies=with_key)
    app.include_router(model_router(registry), prefix="/v1", dependencies=with_key)
    app.include_router(token_router(parser), dependencies=with_key)
    app.include_router(health_router(registry, version))
    app.include_router(state_router(registry, open_requests, metrics, config.api.access, auth))
    app.include_router(status_router(registry, config.api.access, auth))
    app.include_router(page_router(app, config.api.access, auth))
    install_error_handlers(app, (messages_fault, responses_fault))
    complete_schema(app)
    _build_routes(app)
    app.add_middleware(RequestIds, behind_serve=hosting.behind_serve)
    app.add_middleware(CompressAnswers)
    app.add_middleware(HeadRequests)
    app.add_middleware(OptionsRequests)
    app.add_middleware(CountOpenRequests, open_requests=open_requests)
    app.add_middleware(ProtocolVersions)
    if config.api.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.api.allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Request-Id", TRACE_HEADER, "X-Cache", "Retry-After"],
        )
    if logs.are_on:
        app.add_middleware(RecordRequests, sinks=logs.sinks, traces=logs.traces)
    return app


def _closing(
    kept: KeptResponses, streams: ResumableStreams, logs: RequestLogs
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Ends streams without a client, closes the stores' connections, and writes what waits, when the server stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await streams.close()
        await kept.close()
        await asyncio.to_thread(logs.close)

    return lifespan


def _stores(config: Config) -> OpenStore:
    url = config.api.state_redis_url
    if url is None and config.ingress.num_replicas > 1:
        logger.warning(LOCAL_STATE)
    return lambda kind, limits: RedisStore(url, limits, kind) if url is not None else MemoryStore(limits)


def _build_routes(app: FastAPI) -> None:
    """Builds included routers and their response schemas now: FastAPI would at the first request, for some 30 ms."""
    for route in app.router.routes:
        route.matches({"type": "http", "method": "GET", "path": "/", "root_path": "", "headers": []})


def _version() -> str:
    try:
        return metadata.version("manta-serve")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "0.0.0"
