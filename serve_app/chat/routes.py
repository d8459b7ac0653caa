"""Routes POST /v1/chat/completions and POST /v1/chat/completions/batch."""

from fastapi import APIRouter, Request, Response

from serve_app.api.openapi import request_body, responses
from serve_app.api.requests import ChatBatchRequest, ChatRequest
from serve_app.api.responses import ChatCompletion
from serve_app.chat.adapter import prepare_chat, prepare_chat_batch
from serve_app.chat.renderer import ChatRenderer
from serve_app.pipeline.answer import AnswerPipeline
from serve_app.pipeline.parser import RequestParser
from serve_app.resumption.event_ids import STREAM_HEADERS
from serve_app.transport.session_id import SESSION_HEADER

__all__ = ["chat_router"]


def chat_router(parser: RequestParser, pipeline: AnswerPipeline) -> APIRouter:
    router = APIRouter(tags=["chat"])
    renderer = ChatRenderer()

    @router.post(
        "/chat/completions",
        summary="Answer a conversation",
        response_model=None,
        responses=responses(ChatCompletion, streams=True),
        openapi_extra=request_body(ChatRequest) | STREAM_HEADERS,
    )
    async def create_chat_completion(http: Request) -> Response:
        return await pipeline.answer(await parser.parse(http, ChatRequest, prepare_chat), renderer)

    @router.post(
        "/chat/completions/batch",
        summary="Answer many conversations",
        response_model=None,
        responses=responses(ChatCompletion),
        openapi_extra=request_body(ChatBatchRequest) | SESSION_HEADER,
    )
    async def create_chat_batch(http: Request) -> Response:
        return await pipeline.answer(await parser.parse(http, ChatBatchRequest, prepare_chat_batch), renderer)

    return router
