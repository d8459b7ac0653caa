"""POST /v1/chat/completions."""

import secrets
import time
from functools import partial

from fastapi import APIRouter, Request, Response

from configs.schema import Config
from engine.types import EngineClient
from serve_app.answer import EventAnswer, StreamLimits, WholeAnswer
from serve_app.body import off_loop, parse_object, read_body
from serve_app.chat import Fresh, PreparedChat, prepare_chat
from serve_app.chat_form import AnswerHead, ChatEvents, ChatWhole
from serve_app.documents import request_body, responses
from serve_app.pacing import Paced
from serve_app.protocol import ChatCompletion, ChatRequest
from serve_app.registry import Registry
from serve_app.reply import Reply
from serve_app.request_id import use_request_id
from serve_app.text_model import TextModel
from serve_app.validation import validate

__all__ = ["chat_router"]


def chat_router(client: EngineClient, config: Config, registry: Registry, fingerprint: str) -> APIRouter:
    router = APIRouter(tags=["chat"])
    stream_limits = StreamLimits(config.ingress.max_stream_bytes, config.api.keep_alive_s)

    @router.post(
        "/chat/completions",
        summary="Answer a conversation",
        response_model=None,
        responses=responses(ChatCompletion, streams=True),
        openapi_extra=request_body(ChatRequest),
    )
    async def create_chat_completion(http: Request) -> Response:
        data = await read_body(http, config.api.max_body_bytes)
        chat = await off_loop(len(data), lambda: validate(ChatRequest, parse_object(data)))
        model = registry.resolve(chat.model)
        request_id = use_request_id(http, chat.request_id)
        # a client may use its id twice, the engine may not
        fresh = Fresh(f"{request_id}-{secrets.token_hex(8)}", secrets.randbits(63))
        context_len = await registry.context_len(model)
        work = partial(prepare_chat, chat, model, config.api, fresh, context_len)
        prepared = await off_loop(len(data), work)
        return _answer(chat, model, prepared, f"chatcmpl-{request_id}")

    def _answer(chat: ChatRequest, model: TextModel, prepared: PreparedChat, id_: str) -> Response:
        head = AnswerHead(
            id=id_,
            created=int(time.time()),
            model=model.name,
            role=prepared.role,
            n=chat.n,
            fingerprint=fingerprint,
            num_logprobs=prepared.request.sampling.num_logprobs,
            echo=prepared.echo,
            prompt_token_ids=prepared.request.prompt if chat.return_token_ids else None,
            names_ids=chat.return_tokens_as_token_ids,
        )
        reply = Reply(prepared.request, prepared.rules, model.vocabulary)
        if not chat.stream:
            return WholeAnswer(client, reply, ChatWhole(head, model.vocabulary))
        options = chat.stream_options
        events = ChatEvents(
            head,
            model.vocabulary,
            usage=options is not None and options.include_usage,
            continuous_usage=options is not None and options.continuous_usage_stats,
        )
        form = Paced(events, chat.stream_interval, chat.n) if chat.stream_interval > 1 else events
        return EventAnswer(client, reply, form, stream_limits)

    return router
