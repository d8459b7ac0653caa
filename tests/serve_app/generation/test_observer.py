"""The one hook for streams: told of the beginning, of every delta and, once, of the end."""

import msgspec
import pytest

from engine.errors import EngineFailed, Overloaded
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from serve_app.generation.batch import BatchOutput
from serve_app.generation.choice import TextRules
from serve_app.generation.observer import observed
from serve_app.generation.output import RequestStream
from serve_app.generation.usage import Usage
from tests.serve_app.scripted import ScriptedClient, says
from tests.serve_app.toy import byte_tokens, toy_model

PROMPT = (5, 6, 7)


class Recorder:
    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses
        self.calls: list[object] = []

    def on_start(self, output):
        if self.refuses:
            raise Overloaded("full", retry_after_s=1.0)
        self.output = output
        self.calls.append("start")

    def on_delta(self, delta):
        self.calls.append((delta.index, delta.message.content, delta.finish_reason))

    def on_end(self, *, is_complete, error):
        self.calls.append(is_complete)


def output(request_id="r", scores_only=False, n=1):
    request = GenerateRequest(
        request_id=request_id, model="toy", inputs=(TokenSpan(PROMPT),), sampling=SamplingParams(max_tokens=9), n=n
    )
    return RequestStream(request, TextRules(stop_ids=frozenset({2})), toy_model().vocabulary, scores_only=scores_only)


async def test_an_observer_sees_each_delta_and_a_complete_end():
    recorder = Recorder()
    deltas = [delta async for delta in output().deltas(ScriptedClient(says("ab")), (recorder,))]
    assert recorder.calls == ["start", (0, "a", None), (0, "b", None), (0, "", "stop"), True]
    assert len(deltas) == 3 and recorder.output.usage() == Usage(3, 3, 0)


async def test_a_consumer_that_leaves_and_an_engine_that_fails_leave_an_incomplete_end():
    recorder, client = Recorder(), ScriptedClient(says("ab"))
    deltas = output().deltas(client, (recorder,))
    await anext(deltas)
    await deltas.aclose()
    assert recorder.calls == ["start", (0, "a", None), False] and client.num_closed == 1
    recorder = Recorder()
    with pytest.raises(EngineFailed, match="broke off"):
        [delta async for delta in output().deltas(ScriptedClient(says("a", finish=None)), (recorder,))]
    assert recorder.calls == ["start", (0, "a", None), False]


async def test_an_observer_that_refuses_ends_those_before_it_and_no_engine_is_asked():
    first, second, third, client = Recorder(), Recorder(refuses=True), Recorder(), ScriptedClient(says("a"))
    with pytest.raises(Overloaded):
        [delta async for delta in output().deltas(client, (first, second, third))]
    assert (first.calls, second.calls, third.calls, client.requests) == (["start", False], [], [], [])


def test_observers_end_in_the_reverse_of_the_order_in_which_they_began():
    order = []

    class Ordered(Recorder):
        def on_end(self, *, is_complete, error):
            order.append(self)

    one, two = Ordered(), Ordered()
    with observed((one, two), output()):
        pass
    assert order == [two, one]


async def test_a_batch_is_observed_with_its_choices_numbered_through():
    recorder = Recorder()
    batch = BatchOutput([output("r0"), output("r1")], num_choices=1)
    deltas = [delta async for delta in batch.deltas(ScriptedClient(says("a")), (recorder,))]
    assert recorder.calls[0] == "start" and recorder.calls[-1] is True
    assert sorted(recorder.calls[1:-1], key=str) == sorted(
        [(0, "a", None), (0, "", "stop"), (1, "a", None), (1, "", "stop")], key=str
    )
    assert [delta.chunk.request_id for delta in deltas if delta.index == 1] == ["r1", "r1"]
    assert batch.usage() == Usage(6, 4, 0) and batch.usage_of(1) == Usage(3, 2, 0)


async def test_outputs_that_take_turns_come_one_by_one_until_they_end():
    class Uneven(ScriptedClient):
        async def generate(self, request):
            for chunk in says("abc" if request.request_id == "r0" else "a"):
                yield msgspec.structs.replace(chunk, request_id=request.request_id)

    batch = BatchOutput([output("r0"), output("r1")], num_choices=1, takes_turns=True)
    indices = [delta.index async for delta in batch.deltas(Uneven())]
    assert indices == [0, 1, 0, 1, 0, 0] and batch.usage().completion_tokens == 6


async def test_the_first_of_outputs_that_take_turns_that_fails_ends_all():
    client = ScriptedClient([*says("a", finish=None), RuntimeError("x")])
    batch = BatchOutput([output("r0"), output("r1")], num_choices=1, takes_turns=True)
    with pytest.raises(RuntimeError, match="x"):
        async for _ in batch.deltas(client):
            pass
    assert client.num_closed == len(client.requests) == 2


async def test_of_an_output_that_scores_only_nothing_is_sent():
    one = output(scores_only=True)
    (delta,) = [delta async for delta in one.deltas(ScriptedClient(says("", finish="stop")))]
    assert (delta.message.content, delta.tokens, delta.finish_reason) == ("", (), "length")
    assert delta.chunk.tokens == (2,) and one.usage() == Usage(3, 0, 0) and byte_tokens("") == ()


def test_every_observer_gets_its_end_even_if_another_fails_there():
    class Broken(Recorder):
        def on_end(self, *, is_complete, error):
            raise RuntimeError("broken")

    first = Recorder()
    with pytest.raises(RuntimeError), observed((first, Broken()), output()):
        pass
    assert first.calls == ["start", True]
