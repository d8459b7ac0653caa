"""Server state: /health (readiness), /health/live (liveness), /ping, /version, /load and /metrics."""

import logging

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from configs.schema import AccessConfig
from engine.errors import Unavailable
from serve_app.api.openapi import responses
from serve_app.metrics.request_metrics import Metrics
from serve_app.model.registry import Registry
from serve_app.pipeline.auth import Authenticator
from serve_app.server.open_requests import OpenRequests

__all__ = ["health_router", "state_router"]


def health_router(registry: Registry, version: str) -> APIRouter:
    """The routes without authentication: probes have no key."""
    router = APIRouter(tags=["server"])
    faults = responses(None)

    @router.get(
        "/health",
        summary="Readiness: 200 if every model's engine answers",
        responses=faults,
        response_class=Response,
    )
    async def health() -> Response:
        try:
            await registry.check_engines()
        except Exception as error:
            logging.getLogger(__name__).warning("an engine does not answer: %r", error)
            raise Unavailable("an engine does not answer") from error
        return Response()

    @router.get("/health/live", summary="Liveness: 200 while this process answers", response_class=Response)
    async def live() -> Response:
        return Response()

    for method in ("GET", "POST"):
        router.add_api_route(
            "/ping",
            health,
            methods=[method],
            summary="As /health",
            operation_id=f"ping_{method.lower()}",
            responses=faults,
            response_class=Response,
        )

    @router.get("/version", summary="The server's version", response_model=dict[str, str])
    async def show_version() -> dict[str, str]:
        return {"version": version}

    return router


def state_router(
    registry: Registry, open_requests: OpenRequests, metrics: Metrics, access: AccessConfig, auth: Authenticator
) -> APIRouter:
    """The routes that `access` enables."""
    router = APIRouter(tags=["server"])

    async def show_load() -> dict[str, int]:
        return {"server_load": open_requests.count}

    async def show_metrics() -> PlainTextResponse:
        text = metrics.text(await registry.statuses(), auth.rejections if access.metrics == "key" else {})
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    if access.load != "off":
        summary, guard = "How many requests are being answered", auth.guard(access.load)
        router.add_api_route("/load", show_load, summary=summary, dependencies=guard)
    if access.metrics != "off":
        summary, guard = "What has been answered, for Prometheus", auth.guard(access.metrics)
        router.add_api_route(
            "/metrics", show_metrics, summary=summary, dependencies=guard, response_class=PlainTextResponse
        )
    return router
