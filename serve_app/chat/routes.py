"""POST /v1/chat/completions, and the same for many conversations at once."""

import time

from fastapi import APIRouter, Request, Response

from configs.schema import Config
from engine.types import EngineClient
from serve_app.api.answers import ChatCompletion
from serve_app.api.requests import ChatBatchRequest, ChatOptions, ChatRequest
from serve_app.chat.form import ChatEvents, ChatWhole
from serve_app.chat.request import PreparedChat, prepare_chat, prepare_chat_batch
from serve_app.generation.grammar_checks import GrammarChecks
from serve_app.generation.replies import Replies
from serve_app.generation.reply import Reply
from serve_app.http.admission import Admitted
from serve_app.http.answer import EventAnswer, StreamLimits, WholeAnswer
from serve_app.http.answer_head import AnswerHead
from serve_app.http.documents import request_body, responses
from serve_app.http.intake import Intake
from serve_app.http.metrics import Metrics
from serve_app.http.pacing import Paced
from serve_app.http.result_cache import ResultCache
from serve_app.http.session_id import SESSION_HEADER
from serve_app.model.text_model import TextModel
from serve_app.text.vocabulary import Vocabulary

__all__ = ["chat_router"]


def chat_router(
    client: EngineClient,
    config: Config,
    intake: Intake,
    checks: GrammarChecks,
    results: ResultCache,
    metrics: Metrics,
    fingerprint: str,
) -> APIRouter:
    router = APIRouter(tags=["chat"])
    stream_limits = StreamLimits(config.ingress.max_stream_bytes, config.api.keep_alive_s)

    @router.post(
        "/chat/completions",
        summary="Answer a conversation",
        response_model=None,
        responses=responses(ChatCompletion, streams=True),
        openapi_extra=request_body(ChatRequest) | SESSION_HEADER,
    )
    async def create_chat_completion(http: Request) -> Response:
        taken = await intake.take(http, ChatRequest, prepare_chat)
        generation = await checks.check(taken.prepared.generation)
        chat, prepared, vocabulary = taken.fields, taken.prepared, _vocabulary(taken.model, taken.prepared)
        head = _head(chat, taken.request_id, prepared, chat.n)
        reply = Reply(generation.request, generation.rules, vocabulary)
        run, headers = results.run([generation], reply, has_seed=chat.seed is not None)
        run = metrics.followed(Admitted(run, taken.tenant), head.model)
        headers |= taken.tenant.rate_limit_headers()
        if not chat.stream:
            return WholeAnswer(client, run, ChatWhole(head, vocabulary), headers)
        options = chat.stream_options
        events = ChatEvents(
            head,
            vocabulary,
            usage=options is not None and options.include_usage,
            continuous_usage=options is not None and options.continuous_usage_stats,
        )
        form = Paced(events, chat.stream_interval, chat.n) if chat.stream_interval > 1 else events
        return EventAnswer(client, run, form, stream_limits, headers)

    @router.post(
        "/chat/completions/batch",
        summary="Answer many conversations",
        response_model=None,
        responses=responses(ChatCompletion),
        openapi_extra=request_body(ChatBatchRequest) | SESSION_HEADER,
    )
    async def create_chat_batch(http: Request) -> Response:
        taken = await intake.take(http, ChatBatchRequest, prepare_chat_batch)
        generations = [await checks.check(prepared.generation) for prepared in taken.prepared]
        vocabulary = _vocabulary(taken.model, taken.prepared[0])
        head = _head(taken.fields, taken.request_id, taken.prepared[0], len(taken.prepared))
        replies = Replies([Reply(one.request, one.rules, vocabulary) for one in generations], 1)
        run, headers = results.run(generations, replies, has_seed=taken.fields.seed is not None)
        run = metrics.followed(Admitted(run, taken.tenant), head.model)
        headers |= taken.tenant.rate_limit_headers()
        return WholeAnswer(client, run, ChatWhole(head, vocabulary), headers)

    def _head(fields: ChatOptions, request_id: str, prepared: PreparedChat, num_choices: int) -> AnswerHead:
        request = prepared.generation.request
        return AnswerHead(
            id=f"chatcmpl-{request_id}",
            created=int(time.time()),
            model=request.model,
            role=prepared.role,
            n=num_choices,
            fingerprint=fingerprint,
            num_logprobs=request.sampling.num_logprobs,
            echo=prepared.echo,
            prompt_token_ids=request.prompt if fields.return_token_ids else None,
            prompt_text=prepared.prompt if fields.return_prompt_text else None,
            names_ids=fields.return_tokens_as_token_ids,
            calls_functions=prepared.calls_functions,
            merges_reasoning=fields.merges_thinking,
        )

    return router


def _vocabulary(model: TextModel, prepared: PreparedChat) -> Vocabulary:
    """Markers are shown to the one who looks for them."""
    return model.vocabulary if prepared.generation.rules.parse is None else model.marked_vocabulary
