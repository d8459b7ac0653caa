import random

import pytest

from engine.engine import Engine
from engine.structured_output.repetition import ends_in_repetition
from engine.types import GenerateRequest, RepetitionLimit, TokenSpan
from tests.engine.toy import ToyExecutor, request


def by_definition(tokens, limit):
    return any(
        tokens[-size * limit.min_count :] == tokens[-size:] * limit.min_count
        for size in range(limit.min_size, limit.max_size + 1)
        if size * limit.min_count <= len(tokens)
    )


@pytest.mark.parametrize("limit", [RepetitionLimit(1, 3, 2), RepetitionLimit(2, 2, 3), RepetitionLimit(1, 9, 4)])
def test_a_repetition_is_found_as_defined(limit):
    rng = random.Random(1)
    found = 0
    for _ in range(3000):
        tokens = [rng.randrange(2) for _ in range(rng.randint(0, 14))]
        expected = by_definition(tokens, limit)
        assert ends_in_repetition([1, 1, 1, *tokens], 3, limit) is expected
        found += expected
    assert found > 10


class Looping(ToyExecutor):
    """Says 1, 2, 3, 1, 2, 3, ... after a while."""

    def execute_model(self, plan):
        result = super().execute_model(plan)
        last = [piece.start + len(piece.tokens) for piece in plan.sequences if piece.samples]
        tokens = [stop % 3 if stop > 12 else token for stop, token in zip(last, result.tokens, strict=True)]
        return type(result)(tuple(tokens))


def ask(**more):
    asked = request("a", [40, 41, 42, 43], max_tokens=50, repetition=RepetitionLimit(1, 4, 3), **more)
    return list(Engine(Looping(), "toy").generate(asked)), asked


def test_an_answer_that_turns_in_circles_ends():
    chunks, asked = ask()
    output = [token for chunk in chunks for token in chunk.tokens]
    assert output[-9:] == output[-3:] * 3 and len(output) < 25
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(output) - 1) + ["repetition"]
    for cut in range(1, len(output)):
        moved = GenerateRequest(
            request_id="b",
            model="toy",
            inputs=(TokenSpan(asked.prompt),),
            sampling=asked.sampling,
            resume=(tuple(output[:cut]),),
        )
        rest = list(Engine(Looping(), "toy").generate(moved))
        assert [token for chunk in rest for token in chunk.tokens] == output[cut:]
        assert rest[-1].finish_reason == "repetition"


def test_a_repetition_does_not_end_what_is_not_long_enough_yet():
    chunks, _ = ask(min_tokens=40)
    assert len(chunks) == 40 and chunks[-1].finish_reason == "repetition"
