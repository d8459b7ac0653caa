"""Outputs that do not depend on how the engine's steps fell."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from engine.types import GenerateRequest, SamplingParams, TokenSpan
from serve_app.resumption.steady_outputs import SteadyOutputs
from tests.serve_app.scripted import ScriptedClient, says

REQUEST = GenerateRequest(
    request_id="r", model="toy", inputs=(TokenSpan((1, 2)),), sampling=SamplingParams(max_tokens=9), n=2
)


async def steady(outputs, cached=None, request=REQUEST):
    client = SteadyOutputs(ScriptedClient(outputs), {} if cached is None else {"r": cached})
    return [output async for output in client.generate(request)]


def shuffled(queues, order):
    """The outputs of all choices, each in its order."""
    queues, found = [list(queue) for queue in queues], []
    for pick in order:
        queue = queues[pick % 2] or queues[1 - pick % 2]
        if queue:
            found.append(queue.pop(0))
    return found + queues[0] + queues[1]


@given(
    texts=st.tuples(st.text("abc", max_size=6), st.text("abc", max_size=6)),
    sizes=st.tuples(*[st.lists(st.integers(1, 3), min_size=1, max_size=4)] * 2),
    order=st.lists(st.integers(0, 1), max_size=12),
    cached=st.integers(0, 5),
)
async def test_they_are_a_function_of_the_tokens(texts, sizes, order, cached):
    plain = [says(text, index=index, logprobs=True) for index, text in enumerate(texts)]
    expected = await steady(plain[0] + plain[1], 1)
    odd = [says(text, index=i, sizes=sizes[i], logprobs=True, cached=cached) for i, text in enumerate(texts)]
    assert await steady(shuffled(odd, order), 1) == expected
    assert all(len(output.tokens) == 1 for output in expected)


async def test_choices_take_turns_until_they_end():
    outputs = await steady([*says("abc", index=1), *says("a", index=0)])
    assert [output.index for output in outputs] == [0, 1, 0, 1, 1, 1]


async def test_a_stopped_choice_is_not_waited_for():
    client = ScriptedClient([*says("ab", index=0, finish=None), *says("abcd", index=1)])
    outputs, taken = SteadyOutputs(client, {}), []
    async for output in outputs.generate(REQUEST):
        taken.append(output.index)
        if len(taken) == 3:
            outputs.stop_choice("r", 0)
    assert taken == [0, 1, 0, 1, 1, 1, 1] and client.stopped == [(client.requests[0].request_id, 0)]


async def test_the_first_run_says_what_was_cached():
    cached = {}
    client = SteadyOutputs(ScriptedClient([*says("a", cached=4), *says("a", cached=7, index=1)]), cached)
    assert {output.cached_tokens async for output in client.generate(REQUEST)} == {4} and cached == {"r": 4}


async def test_an_error_is_not_held_back():
    failed = msgspec.structs.replace(says("a", index=1)[0], finish_reason="error", tokens=())
    assert [output.finish_reason for output in await steady([failed])] == ["error"]
