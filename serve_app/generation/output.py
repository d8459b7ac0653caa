"""Request output: all choices of one request, from the engine's outputs to deltas, with the usage."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from random import Random
from typing import Protocol

import msgspec

from engine.errors import EngineFailed, RequestError
from engine.types import EngineClient, GenerateRequest, RequestOutput
from serve_app.generation.choice import Choice, ChoiceDelta, TextRules
from serve_app.generation.observer import StreamObserver, UsageSource, observed
from serve_app.generation.usage import Usage
from serve_app.text.message_delta import MessageDelta
from serve_app.text.vocabulary import Vocabulary

__all__ = ["OutputStream", "RequestStream"]


class OutputStream(UsageSource, Protocol):
    """The output of one request, or of several in one answer (batch.py)."""

    def deltas(self, client: EngineClient, observers: Sequence[StreamObserver] = ()) -> AsyncGenerator[ChoiceDelta]: ...


class RequestStream:
    """The state of one answer while it is generated.

    scores_only   only the prompt's logprobs are sent: the one token that the engine must generate is dropped
    """

    def __init__(
        self, request: GenerateRequest, rules: TextRules, vocabulary: Vocabulary, *, scores_only: bool = False
    ) -> None:
        self._request = request
        self._constraint = rules.constraint
        # ids of tool calls are those of the request: who runs it again gives them again
        parses, id_ = rules.parse is not None, request.request_id
        self._choices = [
            Choice(index, rules, vocabulary, Random(f"{id_}/{index}") if parses else None) for index in range(request.n)
        ]
        self._num_open = request.n
        self._cached_tokens = 0
        self._num_migrations = 0
        self._mixed_kernels = False
        self._reasons = rules.parse is not None and rules.parse.reasoning is not None
        self._scores_only = scores_only

    async def deltas(
        self, client: EngineClient, observers: Sequence[StreamObserver] = ()
    ) -> AsyncGenerator[ChoiceDelta]:
        """One delta for each of the engine's outputs. Ends when every choice has finished; closing aborts the request.

        Raises the errors of `EngineClient.generate` before the first delta, and EngineFailed.
        """
        with observed(observers, self):
            async with aclosing(client.generate(self._request)) as chunks:
                async for chunk in chunks:
                    delta = self._push(chunk)
                    if delta is None:
                        continue
                    if delta.ended_here and self._num_open:
                        client.stop_choice(self._request.request_id, delta.index)
                    for observer in observers:
                        observer.on_delta(delta)
                    yield delta
                    if not self._num_open:
                        return
            raise EngineFailed("the answer broke off")

    def usage(self) -> Usage:
        """The usage of all choices so far."""
        return self._usage(self._choices)

    def usage_of(self, index: int) -> Usage:
        """The usage of one choice so far."""
        return self._usage(self._choices[index : index + 1])

    def _usage(self, choices: Sequence[Choice]) -> Usage:
        return Usage(
            len(self._request.prompt),
            0 if self._scores_only else sum(choice.num_tokens for choice in choices),
            self._cached_tokens,
            sum(choice.num_reasoning_tokens for choice in choices) if self._reasons else None,
            self._num_migrations,
            self._mixed_kernels,
        )

    def _push(self, chunk: RequestOutput) -> ChoiceDelta | None:
        if chunk.finish_reason == "error":
            raise EngineFailed(chunk.error or "the engine failed")
        if chunk.finish_reason == "grammar":
            field = self._constraint.field if self._constraint is not None else None
            raise RequestError(f"{field}: the answer could not be held to it up to its end: {chunk.error}", field)
        self._cached_tokens = max(self._cached_tokens, chunk.cached_tokens)
        self._num_migrations = max(self._num_migrations, chunk.num_migrations)
        self._mixed_kernels |= chunk.mixed_kernels
        choice = self._choices[chunk.index]
        if choice.finished:
            return None
        delta = choice.push(chunk)
        self._num_open -= choice.finished
        return _without_output(delta) if self._scores_only else delta


def _without_output(delta: ChoiceDelta) -> ChoiceDelta:
    reason = delta.finish_reason if delta.finish_reason in (None, "abort") else "length"
    return msgspec.structs.replace(
        delta, message=MessageDelta(), tokens=(), logprobs=(), finish_reason=reason, stop_reason=None
    )
