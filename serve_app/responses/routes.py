"""Routes of /v1/responses: create, retrieve, stream again, cancel, delete, list the input items, count tokens."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from engine.errors import RequestError
from serve_app.api.openapi import request_body, responses
from serve_app.generation.choice import ChoiceDelta
from serve_app.pipeline.answer import AnswerPipeline, Generation
from serve_app.pipeline.auth import Authenticator
from serve_app.pipeline.parser import ParsedRequest, RequestParser
from serve_app.responses.adapter import PreparedResponse, count_input_tokens, prepare_response
from serve_app.responses.background import BackgroundResponses, Started
from serve_app.responses.event_response import EventResponse
from serve_app.responses.kept import KeptResponse, KeptResponses, context_of
from serve_app.responses.pages import LIST_PARAMETERS, page_of, query_int
from serve_app.responses.renderer import ResponsesRenderer
from serve_app.responses.requests import InputTokensRequest, ResponsesRequest
from serve_app.responses.shapes import DeletedBody, InputTokensBody, ItemListBody, ResponseBody
from serve_app.resumption.event_ids import STREAM_HEADERS, ResumePoint, new_stream_id
from serve_app.resumption.records import Resumable, StreamRecords
from serve_app.tenants.tenant import Tenant
from serve_app.transport.errors import NotFound

__all__ = ["responses_router"]

logger = logging.getLogger(__name__)

IN_BACKGROUND = "background"  # in place of a route: no request of a client resumes it
MAX_EVENTS = 10**9
RETRIEVE_PARAMETERS: dict[str, Any] = {
    "parameters": [
        {"name": "stream", "in": "query", "schema": {"type": "string", "enum": ["true", "false"]}},
        {"name": "starting_after", "in": "query", "schema": {"type": "integer", "minimum": 0, "maximum": MAX_EVENTS}},
    ]
}


def responses_router(
    parser: RequestParser, pipeline: AnswerPipeline, kept: KeptResponses, auth: Authenticator, records: StreamRecords
) -> APIRouter:
    """`records`: of streams, for background responses that another ingress has begun."""
    router = APIRouter(tags=["responses"])

    async def begin_again(tenant: Tenant, stream_id: str) -> Started:
        parsed = await parser.remembered(tenant, stream_id, IN_BACKGROUND)
        renderer = ResponsesRenderer()
        return _started(parsed, await pipeline.begin(parsed, renderer.id_prefix), renderer)

    background = BackgroundResponses(kept, records, begin_again)
    creator = _Creator(pipeline, kept, background)

    @router.post(
        "/responses",
        summary="Answer items",
        response_model=None,
        responses=responses(ResponseBody, streams=True),
        openapi_extra=request_body(ResponsesRequest) | STREAM_HEADERS,
    )
    async def create_response(http: Request) -> Response:
        return await creator.create(await parser.parse(http, ResponsesRequest, prepare_response, kept.history))

    @router.post(
        "/responses/input_tokens",
        summary="Count the tokens of items",
        response_model=None,
        responses=responses(InputTokensBody),
        openapi_extra=request_body(InputTokensRequest),
    )
    async def count_tokens(http: Request) -> Response:
        parsed = await parser.parse(http, InputTokensRequest, count_input_tokens, kept.history)
        return Response(parsed.prepared, media_type="application/json")

    @router.get(
        "/responses/{response_id}",
        summary="Show a response that is kept",
        response_model=None,
        responses=responses(ResponseBody, streams=True),
        openapi_extra=RETRIEVE_PARAMETERS,
    )
    async def show_response(response_id: str, http: Request) -> Response:
        tenant = auth.tenant(http)
        found = await _found(kept, http, response_id, auth)
        if http.query_params.get("stream") != "true":
            body = found.response if not found.is_background else await background.current(tenant, response_id)
            return _json(body)
        if not found.is_background:
            raise RequestError("stream: only a background response can be streamed again", param="stream")
        after = query_int(http, "starting_after", -1, 0, MAX_EVENTS)
        return EventResponse(background.events(tenant, response_id, after), pipeline.stream_limits)

    @router.delete(
        "/responses/{response_id}",
        summary="Delete a response that is kept",
        response_model=None,
        responses=responses(DeletedBody),
    )
    async def delete_response(response_id: str, http: Request) -> Response:
        if not await kept.delete_response(auth.tenant(http), response_id):
            raise _missing(response_id)
        return _json({"id": response_id, "object": "response", "deleted": True})

    @router.post(
        "/responses/{response_id}/cancel",
        summary="Cancel a background response",
        response_model=None,
        responses=responses(ResponseBody),
    )
    async def cancel_response(response_id: str, http: Request) -> Response:
        tenant = auth.tenant(http)
        if not (await _found(kept, http, response_id, auth)).is_background:
            raise RequestError("only a background response can be cancelled", param="response_id")
        await background.cancel(tenant, response_id)
        return _json(await background.current(tenant, response_id))

    @router.get(
        "/responses/{response_id}/input_items",
        summary="List the input items of a response that is kept",
        response_model=None,
        responses=responses(ItemListBody),
        openapi_extra=LIST_PARAMETERS,
    )
    async def list_input_items(response_id: str, http: Request) -> Response:
        found = await _found(kept, http, response_id, auth)
        return _json(page_of(http, msgspec.json.decode(found.input_items)))

    return router


class _Creator:
    """Answers, and keeps what is to be kept."""

    def __init__(self, pipeline: AnswerPipeline, kept: KeptResponses, background: BackgroundResponses) -> None:
        self._pipeline, self._kept, self._background = pipeline, kept, background

    async def create(self, parsed: ParsedRequest[PreparedResponse]) -> Response:
        async with self._pipeline.one_of_a_stream(parsed):
            renderer = ResponsesRenderer()
            if (running := await self._pipeline.running(parsed, renderer)) is not None:
                return running
            return await self._begin(parsed, renderer)

    async def _begin(self, parsed: ParsedRequest[PreparedResponse], renderer: ResponsesRenderer) -> Response:
        prepared = parsed.prepared
        if prepared.is_background:
            parsed.resumable = Resumable(ResumePoint(new_stream_id()), IN_BACKGROUND, b"")
        generation = await self._pipeline.begin(parsed, renderer.id_prefix)
        if prepared.is_background:
            return await self._in_background(parsed, generation, renderer)
        if prepared.is_stored or prepared.conversation_id is not None:
            deltas = self._keeping(parsed, generation, renderer)
            generation = msgspec.structs.replace(generation, deltas=deltas)
        return self._pipeline.respond(parsed, generation, renderer)

    async def _in_background(
        self, parsed: ParsedRequest[PreparedResponse], generation: Generation, renderer: ResponsesRenderer
    ) -> Response:
        prepared = parsed.prepared
        body = await self._background.start(_started(parsed, generation, renderer))
        if not prepared.delivery.stream:
            return _json(body)
        return EventResponse(self._background.events(parsed.tenant, body["id"], -1), self._pipeline.stream_limits)

    async def _keeping(
        self, parsed: ParsedRequest[PreparedResponse], generation: Generation, renderer: ResponsesRenderer
    ) -> AsyncGenerator[ChoiceDelta]:
        """The deltas; behind the last one, and before the client sees the end, the response is stored."""
        async with aclosing(generation.deltas) as deltas:
            async for delta in deltas:
                yield delta
        try:
            await self._keep(parsed, generation, renderer)
        except Exception as error:  # the answer itself is whole
            logger.warning("the response to request %s could not be kept: %r", parsed.request_id, error)

    async def _keep(
        self, parsed: ParsedRequest[PreparedResponse], generation: Generation, renderer: ResponsesRenderer
    ) -> None:
        assert renderer.state is not None, "it has seen the deltas"
        prepared, tenant = parsed.prepared, parsed.tenant
        body = renderer.state.final(generation.output.usage())
        if prepared.conversation_id is not None:
            output = msgspec.json.encode(body["output"])
            await self._kept.extend_conversation(tenant, prepared.conversation_id, prepared.input_items, output)
        if prepared.is_stored:
            response = KeptResponse(
                body=msgspec.json.encode(body),
                input_items=prepared.input_items,
                context=context_of(parsed.earlier.items, prepared.input_items, body),
            )
            await self._kept.put_response(tenant, body["id"], response)


def _started(parsed: ParsedRequest[PreparedResponse], generation: Generation, renderer: ResponsesRenderer) -> Started:
    stream = renderer.stream(parsed.prepared, generation.metadata, generation.vocabulary)
    return Started(parsed.tenant, parsed.prepared, generation, stream, parsed.earlier.items, parsed.record)


async def _found(kept: KeptResponses, http: Request, id_: str, auth: Authenticator) -> KeptResponse:
    """Raises NotFound."""
    found = await kept.response(auth.tenant(http), id_)
    if found is None:
        raise _missing(id_)
    return found


def _missing(id_: str) -> NotFound:
    return NotFound(f"there is no response {id_[:256]!r}", param="response_id")


def _json(body: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
