"""All choices of one request together, from the engine's chunks to what each adds to the answer."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import msgspec

from engine.errors import EngineFailed
from engine.types import EngineClient, GenerateRequest, TokenChunk
from serve_app.choice import Choice, Delta, TextRules
from serve_app.vocabulary import Vocabulary

__all__ = ["Reply", "Usage"]


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int  # counted once, however many choices there are
    completion_tokens: int
    cached_tokens: int

    def shown(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


class Reply:
    """The state of one answer while it is generated."""

    def __init__(self, request: GenerateRequest, rules: TextRules, vocabulary: Vocabulary) -> None:
        self._request = request
        self._choices = [Choice(index, rules, vocabulary) for index in range(request.n)]
        self._num_open = request.n
        self._cached_tokens = 0

    async def deltas(self, client: EngineClient) -> AsyncIterator[Delta]:
        """One delta for each chunk. Ends when every choice has finished; closing it aborts the request.

        Raises what `EngineClient.generate` raises before the first delta, and EngineFailed.
        """
        chunks = cast("AsyncGenerator[TokenChunk]", client.generate(self._request))
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
        num_tokens = sum(choice.num_tokens for choice in self._choices)
        return Usage(len(self._request.prompt), num_tokens, self._cached_tokens)

    def usage_of(self, index: int) -> Usage:
        """Of one choice, so far."""
        return Usage(len(self._request.prompt), self._choices[index].num_tokens, self._cached_tokens)

    def _push(self, chunk: TokenChunk) -> Delta | None:
        if chunk.finish_reason == "error":
            raise EngineFailed(chunk.error or "the engine failed")
        self._cached_tokens = max(self._cached_tokens, chunk.cached_tokens)
        choice = self._choices[chunk.index]
        if choice.finished:
            return None
        delta = choice.push(chunk)
        self._num_open -= choice.finished
        return delta
