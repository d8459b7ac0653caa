"""DELETE /v1/streams/{id}: ends a resumable stream, which would go on for a while without its client."""

from fastapi import APIRouter, Request, Response

from serve_app.api.openapi import responses
from serve_app.pipeline.auth import Authenticator
from serve_app.pipeline.resumable import ResumableStreams

__all__ = ["stream_router"]


def stream_router(streams: ResumableStreams, auth: Authenticator) -> APIRouter:
    router = APIRouter(tags=["streams"])

    @router.delete(
        "/streams/{stream_id}",
        summary="End a resumable stream; its id is what its events' ids have before the dot",
        status_code=204,
        responses={status: one for status, one in responses(None).items() if status != 200},
        response_class=Response,
    )
    async def end_stream(stream_id: str, http: Request) -> Response:
        await streams.end(auth.tenant(http), stream_id)
        return Response(status_code=204)

    return router
