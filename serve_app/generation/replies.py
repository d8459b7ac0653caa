"""Several requests answered as one: their choices are numbered through, in the order of the requests."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec

from engine.types import EngineClient
from serve_app.generation.choice import Delta
from serve_app.generation.reply import Reply, Usage

__all__ = ["Replies"]


class Replies:
    """Each of the replies has `num_choices` choices.

    replies 0, 1 with two choices each:   choices 0 1 | 2 3
    """

    def __init__(self, replies: Sequence[Reply], num_choices: int) -> None:
        self._replies = replies
        self._num_choices = num_choices

    async def deltas(self, client: EngineClient) -> AsyncIterator[Delta]:
        """As `Reply.deltas`, of all at the same time. The first that fails ends them all."""
        queue: asyncio.Queue[Delta | Exception | None] = asyncio.Queue()

        async def pump(reply: Reply, offset: int) -> None:
            try:
                async for delta in reply.deltas(client):
                    queue.put_nowait(msgspec.structs.replace(delta, index=delta.index + offset))
                queue.put_nowait(None)
            except Exception as error:
                queue.put_nowait(error)

        pumps = [
            asyncio.create_task(pump(reply, position * self._num_choices))
            for position, reply in enumerate(self._replies)
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
            for task in pumps:
                task.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    def usage(self) -> Usage:
        usages = [reply.usage() for reply in self._replies]
        return Usage(
            sum(usage.prompt_tokens for usage in usages),
            sum(usage.completion_tokens for usage in usages),
            sum(usage.cached_tokens for usage in usages),
            None if usages[0].reasoning_tokens is None else sum(usage.reasoning_tokens or 0 for usage in usages),
            sum(usage.num_migrations for usage in usages),
        )

    def usage_of(self, index: int) -> Usage:
        position, choice = divmod(index, self._num_choices)
        return self._replies[position].usage_of(choice)
