"""What a server says of itself: /health, /ping, /version, /load, /status and /metrics."""

import logging

import msgspec
from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from engine.errors import Unavailable
from serve_app.api.answers import ModelStatus, StatusList
from serve_app.http.documents import responses
from serve_app.http.metrics import Metrics
from serve_app.model.registry import Registry
from serve_app.server.load import OpenRequests

__all__ = ["state_router"]


def state_router(registry: Registry, version: str, open_requests: OpenRequests, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["server"])

    faults = responses(None)

    @router.get("/health", summary="200 if every model's engine answers", responses=faults, response_class=Response)
    async def health() -> Response:
        try:
            await registry.check_engines()
        except Exception as error:
            logging.getLogger(__name__).warning("an engine does not answer: %r", error)
            raise Unavailable("an engine does not answer") from error
        return Response()

    for method in ("GET", "POST"):
        router.add_api_route(
            "/ping",
            health,
            methods=[method],
            summary="The same",
            operation_id=f"ping_{method.lower()}",
            responses=faults,
            response_class=Response,
        )

    @router.get("/version", summary="The server's version", response_model=dict[str, str])
    async def show_version() -> dict[str, str]:
        return {"version": version}

    @router.get("/load", summary="How many requests are being answered", response_model=dict[str, int])
    async def show_load() -> dict[str, int]:
        return {"server_load": open_requests.count}

    @router.get("/status", summary="What the engines of each model have and do", response_model=StatusList)
    async def show_status() -> StatusList:
        return StatusList(data=[ModelStatus(**msgspec.structs.asdict(one)) for one in await registry.statuses()])

    @router.get("/metrics", summary="What has been answered, for Prometheus", response_class=PlainTextResponse)
    async def show_metrics() -> PlainTextResponse:
        text = metrics.text(await registry.statuses())
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
