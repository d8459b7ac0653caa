"""Routes POST /v1/messages and POST /v1/messages/count_tokens."""

from fastapi import APIRouter, Request, Response

from serve_app.api.openapi import request_body, responses
from serve_app.messages.adapter import count_tokens, prepare_message
from serve_app.messages.renderer import MessagesRenderer
from serve_app.messages.requests import CountTokensRequest, MessagesRequest
from serve_app.messages.shapes import ErrorBody, MessageBody, TokensCount
from serve_app.pipeline.answer import AnswerPipeline
from serve_app.pipeline.parser import RequestParser
from serve_app.resumption.event_ids import STREAM_HEADERS

__all__ = ["messages_router"]


def messages_router(parser: RequestParser, pipeline: AnswerPipeline) -> APIRouter:
    router = APIRouter(tags=["messages"])
    renderer = MessagesRenderer()

    @router.post(
        "/messages",
        summary="Answer a conversation (Anthropic's API)",
        response_model=None,
        responses=responses(MessageBody, streams=True, error=ErrorBody),
        openapi_extra=request_body(MessagesRequest) | STREAM_HEADERS,
    )
    async def create_message(http: Request) -> Response:
        return await pipeline.answer(await parser.parse(http, MessagesRequest, prepare_message), renderer)

    @router.post(
        "/messages/count_tokens",
        summary="Count a prompt's tokens (Anthropic's API)",
        response_model=None,
        responses=responses(TokensCount, error=ErrorBody),
        openapi_extra=request_body(CountTokensRequest),
    )
    async def count_message_tokens(http: Request) -> Response:
        parsed = await parser.parse(http, CountTokensRequest, count_tokens)
        return Response(parsed.prepared, media_type="application/json")

    return router
