"""What the outputs of a traced request tell: chunks, preemptions, replicas, and why it left one."""

import msgspec
import pytest

from configs.schema import EngineConfig, SchedulerConfig
from engine.engine import Engine
from engine.errors import EngineFailed
from engine.types import GenerateRequest, OutputTrace, RequestOutput
from tests.cluster.local import local_cluster
from tests.engine.toy import ToyExecutor, request

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def traced(asked: GenerateRequest) -> GenerateRequest:
    return msgspec.structs.replace(asked, traceparent=TRACEPARENT)


def told(outputs: list[RequestOutput]) -> list[OutputTrace]:
    return [output.trace for output in outputs if output.trace is not None]


def run(engine: Engine) -> list[RequestOutput]:
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    return outputs


def test_the_first_output_tells_the_chunks_of_the_prompt() -> None:
    config = EngineConfig(scheduler=SchedulerConfig(max_num_batched_tokens=8))
    engine = Engine(ToyExecutor(), "toy", config, b"")
    engine.submit(traced(request("a", list(range(20)), max_tokens=4)))
    outputs = run(engine)
    (trace,) = told(outputs)
    assert trace is outputs[0].trace
    assert [num_tokens for _, num_tokens in trace.chunks] == [8, 8, 4]
    times = [outputs[0].queued_s, *(at_s for at_s, _ in trace.chunks), trace.age_s]
    assert times == sorted(times)


def test_an_untraced_request_tells_nothing() -> None:
    engine = Engine(ToyExecutor(), "toy", EngineConfig(), b"")
    engine.submit(request("a", [1, 2, 3]))
    assert told(run(engine)) == []


def test_a_preempted_sequence_tells_when_and_what_it_computed_again() -> None:
    engine = Engine(ToyExecutor(num_blocks=12), "toy", EngineConfig(), b"")
    for name in "ab":
        engine.submit(traced(request(name, [ord(name) % 50, 2, 3, 4], max_tokens=24)))
    outputs = run(engine)
    assert engine.status().num_preemptions
    preempted = [trace for trace in told(outputs) if trace.preemptions]
    assert sum(len(trace.preemptions) for trace in preempted) == engine.status().num_preemptions
    for trace in preempted:
        assert trace.chunks[-1][0] > trace.preemptions[0] and trace.age_s > trace.chunks[-1][0]


async def test_a_migrated_stream_tells_both_replicas_and_keeps_its_id() -> None:
    async with local_cluster(2) as cluster:
        outputs: list[RequestOutput] = []
        async for output in cluster.client.generate(traced(request("a", [1, 2], max_tokens=100))):
            outputs.append(output)
            if len(outputs) == 5:
                (busy,) = (at for at, server in cluster.servers.items() if server.num_open)
                name = f"replica-{list(cluster.servers).index(busy)}"
                await cluster.kill(busy)
        first, second = (placed for trace in told(outputs) for placed in trace.placements)
        assert {first.replica_id, second.replica_id} == {"replica-0", "replica-1"}
        assert (first.lost_id, first.lost_why) == ("", "")
        assert second.lost_id == first.replica_id == name and second.lost_why and not second.is_planned
        assert first.accepted_s < second.began_s <= second.submitted_s <= second.accepted_s
        assert {output.request_id for output in outputs} == {"a"}


async def test_a_request_that_is_given_up_tells_its_replicas_in_its_error(capfd: pytest.CaptureFixture[str]) -> None:
    async with local_cluster(4) as cluster:
        for toy in cluster.toys.values():
            toy.fails_at = 0
        with pytest.raises(EngineFailed) as failed:
            async for _ in cluster.client.generate(traced(request("a", [1]))):
                pass
        assert len({placed.replica_id for placed in failed.value.placements}) == 3
    assert "toy failure" in capfd.readouterr().err
