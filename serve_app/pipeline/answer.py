"""The one pipeline of every route that generates: grammar, result cache, engine, observers, renderer, response.

parsed request -> grammar validator -> result cache or engine -> request output -> deltas -> renderer -> response
                                                                                (observers see each delta)

A stream that can be resumed is a run of its own (stream_run.py), which responses follow.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import msgspec
from fastapi import Response

from configs.schema import Config
from engine.types import EngineClient
from serve_app.generation.batch import BatchOutput
from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.observer import StreamObserver, UsageSource
from serve_app.generation.output import OutputStream, RequestStream
from serve_app.logs.request_record import step
from serve_app.metrics.request_metrics import Metrics
from serve_app.model.text_model import TextModel
from serve_app.pipeline.admission import Admission
from serve_app.pipeline.coalescing import Coalesced
from serve_app.pipeline.parser import ParsedRequest
from serve_app.pipeline.renderer import CompletionTime, Renderer, ResponseMetadata
from serve_app.pipeline.responses import DocumentResponse, StreamLimits, StreamResponse
from serve_app.pipeline.resumable import ResumableStreams
from serve_app.pipeline.stream_run import StreamSource
from serve_app.preparation.generate_request import PreparedAnswer, PreparedRequest
from serve_app.preparation.grammar_validator import GrammarValidator
from serve_app.result_cache.cache import CacheLookup, ResultCache
from serve_app.resumption.records import Resumable, StreamRecord
from serve_app.resumption.steady_outputs import SteadyOutputs
from serve_app.text.vocabulary import Vocabulary

__all__ = ["AnswerPipeline", "Generation"]

P = TypeVar("P", bound=PreparedAnswer)


class Generation(msgspec.Struct, frozen=True):
    """An answer that begins when its first delta is taken."""

    deltas: AsyncGenerator[ChoiceDelta]
    output: UsageSource
    metadata: ResponseMetadata
    vocabulary: Vocabulary
    headers: dict[str, str]
    resumable: Resumable | None = None  # None: it ends with its client's connection


class AnswerPipeline:
    def __init__(
        self,
        client: EngineClient,
        config: Config,
        validator: GrammarValidator,
        results: ResultCache,
        metrics: Metrics,
        streams: ResumableStreams,
    ) -> None:
        self._client, self._validator, self._results = client, validator, results
        self._metrics, self._streams = metrics, streams
        self.stream_limits = StreamLimits(config.ingress.max_stream_bytes, config.api.keep_alive_s)

    async def answer(self, parsed: ParsedRequest[P], renderer: Renderer[P]) -> Response:
        """Raises as `begin` does."""
        async with self.one_of_a_stream(parsed):
            if (running := await self.running(parsed, renderer)) is not None:
                return running
            return self.respond(parsed, await self.begin(parsed, renderer.id_prefix), renderer)

    def one_of_a_stream(self, parsed: ParsedRequest[P]) -> AbstractAsyncContextManager[object]:
        """Between `running` and `respond`: two requests of one stream are not both to begin it."""
        return self._streams.lock(parsed.tenant, parsed.resumable)

    async def running(self, parsed: ParsedRequest[P], renderer: Renderer[P]) -> Response | None:
        """The rest of the request's stream, if that runs already, and nothing is to be generated."""
        if parsed.resumable is None:
            return None
        with step(parsed.record, "attach"):
            return await self._streams.attached(parsed.tenant, parsed.resumable, self._limits(renderer))

    async def begin(self, parsed: ParsedRequest[P], id_prefix: str) -> Generation:
        """Raises RequestError for a grammar that does not compile, or a priority that the tenant may not have, and
        Unavailable if a stream that can be resumed cannot be remembered.
        """
        prepared, tenant = parsed.prepared, parsed.tenant
        tenant.check_priority(prepared.parts[0].request.priority)
        if len(prepared.parts) > 1:
            tenant.add_requests(len(prepared.parts) - 1)
        is_constrained = any(part.rules.constraint is not None for part in prepared.parts)
        with step(parsed.record if is_constrained else None, "compile_grammar"):
            parts = [await self._validator.check(part) for part in prepared.parts]
        vocabulary = _vocabulary(parsed.model, parts)
        resumable = parsed.resumable if prepared.is_resumable else None
        output = _output(_traced(parts, parsed), prepared.num_choices, vocabulary, takes_turns=resumable is not None)
        created, fingerprint, completed = int(time.time()), self._results.fingerprint, CompletionTime()
        if resumable is None:
            cached = self._results.lookup(parts, self._client, has_seed=prepared.has_seed)
        else:
            record = resumable.record or await self._remembered(parsed, resumable, created)
            created, fingerprint = record.created, record.fingerprint
            completed = CompletionTime(resumable.facts.completed)
            cached = CacheLookup(SteadyOutputs(self._client, resumable.facts.cached))
        observers: tuple[StreamObserver, ...] = (
            Admission(tenant, len(parts)),
            self._metrics.observer(parsed.model.name),
        )
        if parsed.record is not None:
            observers += (parsed.record.begin_answer(is_batch=len(parts) > 1),)
        id_, model = f"{id_prefix}{parsed.request_id}", parsed.model.name
        return Generation(
            deltas=output.deltas(cached.client, (*observers, *cached.observers)),
            output=output,
            metadata=ResponseMetadata(id_, created, model, fingerprint, completed),
            vocabulary=vocabulary,
            headers=cached.headers | tenant.rate_limit_headers(),
            resumable=resumable,
        )

    async def _remembered(self, parsed: ParsedRequest[P], resumable: Resumable, created: int) -> StreamRecord:
        record = StreamRecord(
            path=resumable.path,
            digest=resumable.digest,
            model=parsed.model.name,
            request_id=parsed.request_id,
            created=created,
            fingerprint=self._results.fingerprint,
            prepared=StreamRecord.packed(parsed.prepared),
            earlier=parsed.earlier,
        )
        await self._streams.remember(parsed.tenant, resumable.point.stream_id, record)
        return record

    def respond(self, parsed: ParsedRequest[P], generation: Generation, renderer: Renderer[P]) -> Response:
        """The HTTP response that runs the generation."""
        prepared = parsed.prepared
        metadata, vocabulary, delivery = generation.metadata, generation.vocabulary, prepared.delivery
        deltas, output, headers = generation.deltas, generation.output, generation.headers
        if not delivery.stream:
            return DocumentResponse(deltas, output, renderer.document(prepared, metadata, vocabulary), headers)
        events = renderer.stream(prepared, metadata, vocabulary)
        if delivery.interval > 1:
            events = Coalesced(events, delivery.interval, len(prepared.parts) * prepared.num_choices)
        limits = self._limits(renderer)
        if generation.resumable is None:
            return StreamResponse(deltas, output, events, limits, headers)
        source = StreamSource(deltas, output, events, metadata.completed)
        return self._streams.start(parsed.tenant, generation.resumable, source, limits, headers)

    def _limits(self, renderer: Renderer[P]) -> StreamLimits:
        return msgspec.structs.replace(self.stream_limits, keep_alive=renderer.keep_alive)


def _traced(parts: Sequence[PreparedRequest], parsed: ParsedRequest[P]) -> Sequence[PreparedRequest]:
    """The parts of a traced request with its trace context; its record gets the times of their preparation."""
    record = parsed.record
    if record is None or record.trace is None:
        return parts
    traced = []
    for part in parts:
        if parsed.resumable is None or parsed.resumable.record is None:  # else another request was prepared
            record.add_steps(part.steps)
        request = msgspec.structs.replace(part.request, traceparent=record.trace.traceparent)
        traced.append(msgspec.structs.replace(part, request=request))
    return traced


def _output(
    parts: Sequence[PreparedRequest], num_choices: int, vocabulary: Vocabulary, *, takes_turns: bool
) -> OutputStream:
    outputs = [RequestStream(part.request, part.rules, vocabulary, scores_only=part.scores_only) for part in parts]
    return outputs[0] if len(outputs) == 1 else BatchOutput(outputs, num_choices, takes_turns=takes_turns)


def _vocabulary(model: TextModel, parts: Sequence[PreparedRequest]) -> Vocabulary:
    """The vocabulary that shows markers where a parser looks for them."""
    return model.vocabulary if parts[0].rules.parse is None else model.marked_vocabulary
