"""All choices of one request together, from the engine's chunks to what each adds to the answer."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, cast

import msgspec

from engine.errors import EngineFailed, RequestError
from engine.types import EngineClient, GenerateRequest, RequestOutput
from serve_app.generation.choice import Choice, Delta, TextRules
from serve_app.text.vocabulary import Vocabulary

__all__ = ["Reply", "Usage"]


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int  # counted once, however many choices there are
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int | None = None  # of the completion's; None: not looked for
    num_migrations: int = 0  # replicas that the request lost on its way

    def shown(self) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
        if self.reasoning_tokens is not None:
            shown["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        if self.num_migrations:
            shown["migrations"] = self.num_migrations
        return shown


class Reply:
    """The state of one answer while it is generated."""

    def __init__(self, request: GenerateRequest, rules: TextRules, vocabulary: Vocabulary) -> None:
        self._request = request
        self._constraint = rules.constraint
        self._choices = [Choice(index, rules, vocabulary) for index in range(request.n)]
        self._num_open = request.n
        self._cached_tokens = 0
        self._num_migrations = 0
        self._thinks = rules.parse is not None and rules.parse.think is not None

    async def deltas(self, client: EngineClient) -> AsyncIterator[Delta]:
        """One delta for each chunk. Ends when every choice has finished; closing it aborts the request.

        Raises what `EngineClient.generate` raises before the first delta, and EngineFailed.
        """
        chunks = cast("AsyncGenerator[RequestOutput]", client.generate(self._request))
        async with aclosing(chunks):
            async for chunk in chunks:
                delta = self._push(chunk)
                if delta is None:
                    continue
                if delta.ended_here and self._num_open:
                    client.stop_choice(self._request.request_id, delta.index)
                yield delta
                if not self._num_open:
                    return
        raise EngineFailed("the answer broke off")

    def usage(self) -> Usage:
        """Of all choices, so far."""
        return self._usage(self._choices)

    def usage_of(self, index: int) -> Usage:
        """Of one choice, so far."""
        return self._usage(self._choices[index : index + 1])

    def _usage(self, choices: Sequence[Choice]) -> Usage:
        return Usage(
            len(self._request.prompt),
            sum(choice.num_tokens for choice in choices),
            self._cached_tokens,
            sum(choice.num_reasoning_tokens for choice in choices) if self._thinks else None,
            self._num_migrations,
        )

    def _push(self, chunk: RequestOutput) -> Delta | None:
        if chunk.finish_reason == "error":
            raise EngineFailed(chunk.error or "the engine failed")
        if chunk.finish_reason == "grammar":
            field = self._constraint.field if self._constraint is not None else None
            raise RequestError(f"{field}: the answer could not be held to it up to its end: {chunk.error}", field)
        self._cached_tokens = max(self._cached_tokens, chunk.cached_tokens)
        self._num_migrations = max(self._num_migrations, chunk.num_migrations)
        choice = self._choices[chunk.index]
        if choice.finished:
            return None
        delta = choice.push(chunk)
        self._num_open -= choice.finished
        return delta
