"""GET /health."""

import logging

from fastapi import APIRouter, Response

from engine.errors import Unavailable
from serve_app.documents import responses
from serve_app.registry import Registry

__all__ = ["health_router"]


def health_router(registry: Registry) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/health", summary="200 if every model's engine answers", responses=responses(None))
    async def health() -> Response:
        try:
            await registry.check_engines()
        except Exception as error:
            logging.getLogger(__name__).warning("an engine does not answer: %r", error)
            raise Unavailable("an engine does not answer") from error
        return Response()

    return router
