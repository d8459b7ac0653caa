"""Route POST /v1/completions."""

from fastapi import APIRouter, Request, Response

from serve_app.api.openapi import request_body, responses
from serve_app.api.requests import CompletionRequest
from serve_app.api.responses import Completion
from serve_app.completion.adapter import prepare_completion
from serve_app.completion.renderer import CompletionRenderer
from serve_app.pipeline.answer import AnswerPipeline
from serve_app.pipeline.parser import RequestParser
from serve_app.resumption.event_ids import STREAM_HEADERS

__all__ = ["completion_router"]


def completion_router(parser: RequestParser, pipeline: AnswerPipeline) -> APIRouter:
    router = APIRouter(tags=["completions"])
    renderer = CompletionRenderer()

    @router.post(
        "/completions",
        summary="Continue a text",
        response_model=None,
        responses=responses(Completion, streams=True),
        openapi_extra=request_body(CompletionRequest) | STREAM_HEADERS,
    )
    async def create_completion(http: Request) -> Response:
        return await pipeline.answer(await parser.parse(http, CompletionRequest, prepare_completion), renderer)

    return router
