"""Batch output: several requests in one answer, whose choices are numbered in the order of the requests."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

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

    takes_turns   the outputs' deltas come in turns: their order is a function of the deltas, not of the time
    """

    def __init__(self, outputs: Sequence[RequestStream], num_choices: int, *, takes_turns: bool = False) -> None:
        self._outputs = outputs
        self._num_choices = num_choices
        self._takes_turns = takes_turns

    async def deltas(
        self, client: EngineClient, observers: Sequence[StreamObserver] = ()
    ) -> AsyncGenerator[ChoiceDelta]:
        """As `RequestStream.deltas`, of all requests concurrently. The first that fails ends them all."""
        merged = self._in_turns(client) if self._takes_turns else self._as_they_come(client)
        with observed(observers, self):
            async with aclosing(merged) as deltas:
                async for delta in deltas:
                    for observer in observers:
                        observer.on_delta(delta)
                    yield delta

    async def _as_they_come(self, client: EngineClient) -> AsyncGenerator[ChoiceDelta]:
        queue: asyncio.Queue[ChoiceDelta | Exception | None] = asyncio.Queue()

        async def pump(output: RequestStream, offset: int) -> None:
            try:
                async for delta in output.deltas(client):
                    queue.put_nowait(msgspec.structs.replace(delta, index=delta.index + offset))
                queue.put_nowait(None)
            except Exception as error:
                queue.put_nowait(error)

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
                else:
                    yield item
        finally:
            await _cancelled(pumps)

    async def _in_turns(self, client: EngineClient) -> AsyncGenerator[ChoiceDelta]:
        """One delta of each output that is not over in turn; the first ones when all have begun.

        output 0: a b     output 1: c     output 2: d e     ->  a c d b e
        """
        streams = [output.deltas(client) for output in self._outputs]
        firsts = [asyncio.create_task(_first(stream)) for stream in streams]  # all begin now
        try:
            turn = list(enumerate(await asyncio.gather(*firsts)))
            while turn:
                following: list[tuple[int, ChoiceDelta | None]] = []
                for position, first in turn:
                    delta = first if first is not None else await anext(streams[position], None)
                    if delta is not None:
                        yield msgspec.structs.replace(delta, index=delta.index + position * self._num_choices)
                        following.append((position, None))
                turn = following
        finally:
            await _cancelled(firsts)
            for stream in streams:
                await stream.aclose()

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


async def _first(stream: AsyncGenerator[ChoiceDelta]) -> ChoiceDelta | None:
    return await anext(stream, None)


async def _cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Returns when they are over."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
