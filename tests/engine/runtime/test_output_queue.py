"""Output queues: what an engine reports reaches the request that it belongs to, once, in order."""

import asyncio

import pytest

from engine.errors import Overloaded, RequestError, Unavailable
from engine.runtime.output_queue import OutputQueues
from engine.types import EngineOutputs, EngineStatus, Rejection, RequestOutput

STATUS = EngineStatus(
    model="m", max_model_len=10, num_running=0, num_waiting=0, num_waiting_tokens=0, num_blocks=1, num_free_blocks=1
)


def output(request_id: str, start: int, *tokens: int) -> RequestOutput:
    return RequestOutput(request_id, 0, start, tokens)


async def test_outputs_come_in_order_and_to_their_own_request_alone() -> None:
    queues = OutputQueues()
    a, b = queues.open("a"), queues.open("b")
    queues.deliver(EngineOutputs(("a", "b"), (), (output("a", 0, 5), output("b", 0, 6), output("c", 0, 9)), STATUS))
    queues.deliver(EngineOutputs((), (), (output("a", 1, 7),), STATUS))
    await a.accepted()
    assert [(await a.next()).tokens, (await a.next()).tokens, (await b.next()).tokens] == [(5,), (7,), (6,)]
    assert len(queues) == 2
    queues.close("a")
    queues.deliver(EngineOutputs((), (), (output("a", 2, 8),), STATUS))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(a.next(), 0.01)


async def test_a_rejection_is_raised_as_the_error_that_it_names() -> None:
    queues = OutputQueues()
    kinds = {"RequestError": RequestError, "Overloaded": Overloaded, "something new": Unavailable}
    for kind, error in kinds.items():
        waiting = queues.open(kind)
        queues.deliver(EngineOutputs((), (Rejection(kind, kind, "why", None),), (), STATUS))
        with pytest.raises(error, match="why"):
            await waiting.accepted()
        with pytest.raises(error, match="why"):
            await waiting.next()


async def test_two_requests_cannot_have_one_id() -> None:
    queues = OutputQueues()
    queues.open("a")
    with pytest.raises(RequestError, match="this id is running"):
        queues.open("a")


async def test_a_lost_connection_ends_every_open_request_after_what_came_before() -> None:
    queues = OutputQueues()
    a = queues.open("a")
    queues.deliver(EngineOutputs(("a",), (), (output("a", 0, 5),), STATUS))
    queues.fail(Unavailable("lost"))
    assert (await a.next()).tokens == (5,)
    with pytest.raises(Unavailable, match="lost"):
        await a.next()
    assert list(queues.silent_since(float("inf"))) == []
