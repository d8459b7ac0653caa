"""Route POST /v1/responses."""

from typing import Any

from fastapi import APIRouter, Request, Response

from serve_app.api.openapi import request_body, responses
from serve_app.pipeline.answer import AnswerPipeline
from serve_app.pipeline.parser import RequestParser
from serve_app.responses.adapter import prepare_response
from serve_app.responses.renderer import ResponsesRenderer
from serve_app.responses.requests import ResponsesRequest
from serve_app.responses.shapes import ResponseBody
from serve_app.transport.session_id import SESSION_HEADER

__all__ = ["responses_router"]


def responses_router(parser: RequestParser, pipeline: AnswerPipeline) -> APIRouter:
    router = APIRouter(tags=["responses"])
    renderer = ResponsesRenderer()
    described: dict[str, Any] = request_body(ResponsesRequest) | SESSION_HEADER

    @router.post(
        "/responses",
        summary="Answer items",
        response_model=None,
        responses=responses(ResponseBody, streams=True),
        openapi_extra=described,
    )
    async def create_response(http: Request) -> Response:
        return await pipeline.answer(await parser.parse(http, ResponsesRequest, prepare_response), renderer)

    return router
