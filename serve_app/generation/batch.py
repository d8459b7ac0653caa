"""Batch output: several requests in one answer, whose choices are numbered in the order of the requests."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import msgspec

from engine.types import EngineClient
from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.observer import StreamObserver, observed
from serve_app.generation.output import RequestStream
from serve_app.generation.usage import Usage

__all__ = ["BatchOutput"]


class BatchOutput:
    """Each of the outputs has `num_choices` choices.

    outputs 0, 1 with two choices each:   choices 0 1 | 2 3
    """

    def __init__(self, outputs: Sequence[RequestStream], num_choices: int) -> None:
        self._outputs = outputs
        self._num_choices = num_choices

    async def deltas(
        self, client: EngineClient, observers: Sequence[StreamObserver] = ()
    ) -> AsyncGenerator[ChoiceDelta]:
        """As `RequestStream.deltas`, of all requests concurrently. The first that fails ends them all."""
        queue: asyncio.Queue[ChoiceDelta | Exception | None] = asyncio.Queue()

        async def pump(output: RequestStream, offset: int) -> None:
            try:
                async for delta in output.deltas(client):
                    queue.put_nowait(msgspec.structs.replace(delta, index=delta.index + offset))
                queue.put_nowait(None)
            except Exception as error:
                queue.put_nowait(error)

        with observed(observers, self):
            pumps = [
                asyncio.create_task(pump(output, position * self._num_choices))
                for position, output in enumerate(self._outputs)
            ]
            try:
                num_open = len(pumps)
                while num_open:
                    item = await queue.get()
                    if isinstance(item, Exception):
                        raise item
                    if item is None:
                        num_open -= 1
                        continue
                    for observer in observers:
                        observer.on_delta(item)
                    yield item
            finally:
                for task in pumps:
                    task.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)

    def usage(self) -> Usage:
        usages = [output.usage() for output in self._outputs]
        return Usage(
            sum(usage.prompt_tokens for usage in usages),
            sum(usage.completion_tokens for usage in usages),
            sum(usage.cached_tokens for usage in usages),
            None if usages[0].reasoning_tokens is None else sum(usage.reasoning_tokens or 0 for usage in usages),
            sum(usage.num_migrations for usage in usages),
            any(usage.mixed_kernels for usage in usages),
        )

    def usage_of(self, index: int) -> Usage:
        position, choice = divmod(index, self._num_choices)
        return self._outputs[position].usage_of(choice)
