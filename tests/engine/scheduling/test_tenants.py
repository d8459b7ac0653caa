"""Tenants share an engine: whose turn it is, and who may still join the queue."""

import msgspec
import pytest

from configs.schema import EngineConfig, SchedulerConfig
from engine.engine import Engine
from engine.errors import Overloaded
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from tests.engine.toy import ToyExecutor


def make(max_num_seqs: int = 1, max_queued_requests: int = 100) -> Engine:
    scheduler = SchedulerConfig(max_num_seqs=max_num_seqs, max_queued_requests=max_queued_requests)
    return Engine(ToyExecutor(), "toy", EngineConfig(scheduler=scheduler), b"key")


def request(name: str, tenant: str, priority: int = 0) -> GenerateRequest:
    return GenerateRequest(
        request_id=name,
        model="toy",
        inputs=(TokenSpan((1, 2, 3)),),
        sampling=SamplingParams(max_tokens=2),
        tenant=tenant,
        priority=priority,
    )


def order_of(engine: Engine) -> list[str]:
    """Request ids as they finish."""
    finished = []
    while chunks := engine.step():
        finished += [chunk.request_id for chunk in chunks if chunk.finish_reason]
        engine.check()
    return finished


def test_one_who_asks_little_does_not_wait_for_all_that_another_has_queued() -> None:
    engine = make()
    for index in range(6):
        engine.submit(request(f"greedy {index}", "greedy"))
    for index in range(2):
        engine.submit(request(f"modest {index}", "modest"))
    assert order_of(engine) == [
        *("greedy 0", "modest 0", "greedy 1", "modest 1"),
        *(f"greedy {index}" for index in range(2, 6)),
    ]


def test_one_tenant_alone_is_served_as_it_comes() -> None:
    engine = make()
    names = [f"request {index}" for index in range(5)]
    for name in names:
        engine.submit(request(name, ""))
    assert order_of(engine) == names


def test_priority_goes_before_turns() -> None:
    engine = make()
    engine.submit(request("first", "a"))
    engine.submit(request("later", "b"))
    engine.submit(request("urgent", "a", priority=-1))
    assert order_of(engine)[0] == "urgent"


def test_no_tenant_fills_the_queue_alone() -> None:
    engine = make(max_queued_requests=20)
    num_accepted = 0
    with pytest.raises(Overloaded, match="of them are your own"):
        for index in range(30):
            engine.submit(request(f"greedy {index}", "greedy"))
            num_accepted += 1
    assert num_accepted == 17  # one runs first, and 4/5 of the queue
    engine.submit(request("modest", "modest"))
    engine.check()
    with pytest.raises(Overloaded):
        engine.submit(request("more", "greedy"))
    assert len(order_of(engine)) == num_accepted + 1


def test_what_a_tenant_gets_does_not_depend_on_the_others() -> None:
    """Turns change when, never what."""
    alone, crowd = make(), make(max_num_seqs=3)
    wanted = msgspec.structs.replace(request("x", "modest"), sampling=SamplingParams(max_tokens=9))
    alone.submit(wanted)
    for index in range(6):
        crowd.submit(request(f"greedy {index}", "greedy"))
    crowd.submit(wanted)
    assert tokens_of(alone) == tokens_of(crowd) != ()


def tokens_of(engine: Engine) -> tuple[int, ...]:
    found: tuple[int, ...] = ()
    while chunks := engine.step():
        found += sum((chunk.tokens for chunk in chunks if chunk.request_id == "x"), ())
    return found
