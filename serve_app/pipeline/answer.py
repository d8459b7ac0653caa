"""The one pipeline of every route that generates: grammar, result cache, engine, observers, renderer, response.

parsed request -> grammar validator -> result cache or engine -> request output -> deltas -> renderer -> response
                                                                                (observers see each delta)
"""

import time
from collections.abc import AsyncGenerator, Sequence
from typing import TypeVar

import msgspec
from fastapi import Response

from configs.schema import Config
from engine.types import EngineClient
from serve_app.generation.batch import BatchOutput
from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.observer import UsageSource
from serve_app.generation.output import OutputStream, RequestStream
from serve_app.metrics.request_metrics import Metrics
from serve_app.model.text_model import TextModel
from serve_app.pipeline.admission import Admission
from serve_app.pipeline.coalescing import Coalesced
from serve_app.pipeline.parser import ParsedRequest
from serve_app.pipeline.renderer import Renderer, ResponseMetadata
from serve_app.pipeline.responses import DocumentResponse, StreamLimits, StreamResponse
from serve_app.preparation.generate_request import PreparedAnswer, PreparedRequest
from serve_app.preparation.grammar_validator import GrammarValidator
from serve_app.result_cache.cache import ResultCache
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


class AnswerPipeline:
    """`fingerprint`: the system_fingerprint of the models' configuration."""

    def __init__(
        self,
        client: EngineClient,
        config: Config,
        validator: GrammarValidator,
        results: ResultCache,
        metrics: Metrics,
        fingerprint: str,
    ) -> None:
        self._client, self._validator, self._results = client, validator, results
        self._metrics, self._fingerprint = metrics, fingerprint
        self.stream_limits = StreamLimits(config.ingress.max_stream_bytes, config.api.keep_alive_s)

    async def answer(self, parsed: ParsedRequest[P], renderer: Renderer[P]) -> Response:
        """Raises as `begin` does."""
        return self.respond(parsed.prepared, await self.begin(parsed, renderer.id_prefix), renderer)

    async def begin(self, parsed: ParsedRequest[P], id_prefix: str) -> Generation:
        """Raises RequestError for a grammar that does not compile, or a priority that the tenant may not have."""
        prepared, tenant = parsed.prepared, parsed.tenant
        tenant.check_priority(prepared.parts[0].request.priority)
        parts = [await self._validator.check(part) for part in prepared.parts]
        vocabulary = _vocabulary(parsed.model, parts)
        output = _output(parts, prepared.num_choices, vocabulary)
        cached = self._results.lookup(parts, self._client, has_seed=prepared.has_seed)
        observers = (Admission(tenant), self._metrics.observer(parsed.model.name), *cached.observers)
        return Generation(
            deltas=output.deltas(cached.client, observers),
            output=output,
            metadata=ResponseMetadata(
                f"{id_prefix}{parsed.request_id}", int(time.time()), parsed.model.name, self._fingerprint
            ),
            vocabulary=vocabulary,
            headers=cached.headers | tenant.rate_limit_headers(),
        )

    def respond(self, prepared: P, generation: Generation, renderer: Renderer[P]) -> Response:
        """The HTTP response that runs the generation."""
        metadata, vocabulary, delivery = generation.metadata, generation.vocabulary, prepared.delivery
        deltas, output, headers = generation.deltas, generation.output, generation.headers
        if not delivery.stream:
            return DocumentResponse(deltas, output, renderer.document(prepared, metadata, vocabulary), headers)
        events = renderer.stream(prepared, metadata, vocabulary)
        if delivery.interval > 1:
            events = Coalesced(events, delivery.interval, len(prepared.parts) * prepared.num_choices)
        limits = msgspec.structs.replace(self.stream_limits, keep_alive=renderer.keep_alive)
        return StreamResponse(deltas, output, events, limits, headers)


def _output(parts: Sequence[PreparedRequest], num_choices: int, vocabulary: Vocabulary) -> OutputStream:
    outputs = [RequestStream(part.request, part.rules, vocabulary, scores_only=part.scores_only) for part in parts]
    return outputs[0] if len(outputs) == 1 else BatchOutput(outputs, num_choices)


def _vocabulary(model: TextModel, parts: Sequence[PreparedRequest]) -> Vocabulary:
    """The vocabulary that shows markers where a parser looks for them."""
    return model.vocabulary if parts[0].rules.parse is None else model.marked_vocabulary
