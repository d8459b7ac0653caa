"""An engine client whose outputs are a function of the request: one token each, the choices in turn.

How many tokens a step gives (drafts, migration), which choice is first, and what was in the prefix cache differ from
run to run. Events of a resumable stream must not.
"""

import secrets
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from engine.types import EngineClient, EngineStatus, GenerateRequest, RequestOutput

__all__ = ["SteadyOutputs"]

UNORDERED = ("error", "grammar")  # these end the answer at once


class SteadyOutputs:
    """An EngineClient for the requests of one answer.

    cached   tokens of each request, as reported in an earlier run; the first one sets them
    """

    def __init__(self, client: EngineClient, cached: dict[str, int]) -> None:
        self._client, self._cached = client, cached
        self._turns: dict[str, _Turns] = {}  # by request
        self._run = f"/{secrets.token_hex(4)}"  # no two runs of a stream are one request to the engine

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput]:
        id_ = request.request_id
        turns = self._turns[id_] = _Turns(request.n)
        asked = msgspec.structs.replace(request, request_id=id_ + self._run)
        async with aclosing(self._client.generate(asked)) as outputs:
            async for output in outputs:
                cached = self._cached.setdefault(id_, output.cached_tokens)
                if output.finish_reason in UNORDERED:
                    yield output
                    return
                if request.n == 1:
                    if len(output.tokens) == 1 and _is_steady(output, cached):  # as nearly all are
                        yield output
                        continue
                    for piece in _pieces(output, id_, cached):
                        yield piece
                    continue
                for piece in _pieces(output, id_, cached):
                    turns.add(piece)
                while (ready := turns.next()) is not None:  # the consumer may stop a choice in between
                    yield ready

    def stop_choice(self, request_id: str, index: int) -> None:
        self._turns[request_id].close(index)
        self._client.stop_choice(request_id + self._run, index)

    async def status(self, model: str) -> EngineStatus:
        return await self._client.status(model)


def _is_steady(output: RequestOutput, cached: int) -> bool:
    """Whether nothing that is told of it differs from run to run; its request id is not."""
    return output.cached_tokens == cached and not (output.num_migrations or output.mixed_kernels)


def _pieces(output: RequestOutput, request_id: str, cached: int) -> list[RequestOutput]:
    """Of one token each, without what differs from run to run: migrations, kernels, what was cached."""
    tokens, logprobs, last = output.tokens, output.logprobs, len(output.tokens) - 1
    if last < 0 and not output.finish_reason and not output.prompt_logprobs:
        return []
    return [
        # positional, as `replace` takes four times as long
        RequestOutput(
            request_id,
            output.index,
            output.start + place,
            tokens[place : place + 1],
            output.finish_reason if place >= last else None,
            logprobs[place : place + 1] if logprobs is not None else None,
            cached,
            output.prompt_logprobs if not place else None,
            None,
            0,
            0,
            output.queued_s,
            False,
            output.trace if not place else None,
        )
        for place in range(last + 1 or 1)
    ]


class _Turns:
    """Outputs of `n` choices, one of each open choice in turn.

    choice 0: a b     choice 1: c (end)     choice 2: d e      ->  a c d b e
    """

    def __init__(self, n: int) -> None:
        self._waiting: list[deque[RequestOutput] | None] = [deque() for _ in range(n)]  # None: the choice is over
        self._turn = 0

    def add(self, output: RequestOutput) -> None:
        waiting = self._waiting[output.index]
        if waiting is not None:
            waiting.append(output)

    def close(self, index: int) -> None:
        self._waiting[index] = None

    def next(self) -> RequestOutput | None:
        """None if the choice whose turn it is has none yet, or if all are over."""
        for _ in self._waiting:
            waiting = self._waiting[self._turn]
            if waiting is not None:
                if not waiting:
                    return None
                output = waiting.popleft()
                if output.finish_reason is not None:
                    self._waiting[self._turn] = None
                self._advance()
                return output
            self._advance()
        return None

    def _advance(self) -> None:
        self._turn = (self._turn + 1) % len(self._waiting)
