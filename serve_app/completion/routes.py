"""POST /v1/completions."""

import time

from fastapi import APIRouter, Request, Response

from configs.schema import Config
from engine.types import EngineClient
from serve_app.api.answers import Completion
from serve_app.api.requests import CompletionRequest
from serve_app.completion.echo import EchoAlone
from serve_app.completion.form import CompletionEvents, CompletionWhole
from serve_app.completion.request import prepare_completion
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

__all__ = ["completion_router"]


def completion_router(
    client: EngineClient,
    config: Config,
    intake: Intake,
    checks: GrammarChecks,
    results: ResultCache,
    metrics: Metrics,
    fingerprint: str,
) -> APIRouter:
    router = APIRouter(tags=["completions"])
    stream_limits = StreamLimits(config.ingress.max_stream_bytes, config.api.keep_alive_s)

    @router.post(
        "/completions",
        summary="Continue a text",
        response_model=None,
        responses=responses(Completion, streams=True),
        openapi_extra=request_body(CompletionRequest) | SESSION_HEADER,
    )
    async def create_completion(http: Request) -> Response:
        taken = await intake.take(http, CompletionRequest, prepare_completion)
        generations = [await checks.check(part) for part in taken.prepared.generations]
        fields, prepared, vocabulary = taken.fields, taken.prepared, taken.model.vocabulary
        head = AnswerHead(
            id=f"cmpl-{taken.request_id}",
            created=int(time.time()),
            model=taken.model.name,
            fingerprint=fingerprint,
            n=fields.n,
            num_logprobs=fields.logprobs,
            num_prompt_logprobs=fields.prompt_logprobs,
            shows_special=not fields.skip_special_tokens,
            names_ids=fields.return_tokens_as_token_ids,
        )
        parts = [Reply(part.request, part.rules, vocabulary) for part in generations]
        replies = parts[0] if len(parts) == 1 else Replies(parts, fields.n)
        run, headers = results.run(generations, replies, has_seed=fields.seed is not None)
        run = metrics.followed(Admitted(EchoAlone(run) if fields.max_tokens == 0 else run, taken.tenant), head.model)
        headers |= taken.tenant.rate_limit_headers()
        prompts = [part.request.prompt for part in generations for _ in range(fields.n)]
        prompt_ids = prompts if fields.return_token_ids else None
        if not fields.stream:
            return WholeAnswer(client, run, CompletionWhole(head, vocabulary, prepared.echoes, prompt_ids), headers)
        options = fields.stream_options
        events = CompletionEvents(
            head,
            vocabulary,
            prepared.echoes,
            prompt_ids,
            usage=options is not None and options.include_usage,
            continuous_usage=options is not None and options.continuous_usage_stats,
        )
        form = Paced(events, fields.stream_interval, len(prompts)) if fields.stream_interval > 1 else events
        return EventAnswer(client, run, form, stream_limits, headers)

    return router
