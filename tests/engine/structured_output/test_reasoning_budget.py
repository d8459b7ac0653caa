import random

import pytest

from engine.structured_output.reasoning_budget import ReasoningTracker
from engine.types import ReasoningBudget
from tests.engine.sampling.test_sampler import Rows, falling, start

ENDS = (9, 8)


def say(limit, draw, num_tokens, output=()):
    """Random tokens, but those that are forced."""
    thinking, said = ReasoningTracker(limit, output), []
    for _ in range(num_tokens):
        forced = thinking.forced
        said.append(draw() if forced is None else forced)
        thinking.consume(said[-1])
    return said


def where(tokens, marker):
    return next((at for at in range(len(tokens)) if tuple(tokens[at : at + len(marker)]) == marker), None)


@pytest.mark.parametrize("budget", [0, 1, 4])
@pytest.mark.parametrize("begins", [(), (7,), (7, 6)])
def test_thinking_ends_by_its_budget(budget, begins):
    limit = ReasoningBudget(budget, ENDS, begins)
    for seed in range(200):
        rng = random.Random(seed)
        said = say(limit, lambda: rng.randrange(5, 10), 60)  # noqa: B023
        begun = where(said, begins)
        if begun is None:
            continue
        inside = said[begun + len(begins) :]
        at = where(inside, ENDS)
        if at is not None:
            assert at <= budget
        else:
            assert len(inside) < budget + len(ENDS)


def test_an_answer_that_moves_ends_its_thinking_at_the_same_place():
    limit = ReasoningBudget(5, ENDS, (7,))
    for seed in range(50):
        rng = random.Random(seed)
        draws = [rng.randrange(5, 10) for _ in range(40)]
        whole = say(limit, iter(draws).__next__, 30)
        for cut in range(30):
            thinking = ReasoningTracker(limit, whole[:cut])
            for token in whole[cut:]:
                assert thinking.forced in (None, token)
                thinking.consume(token)


def test_an_ending_that_was_begun_is_finished():
    assert ReasoningTracker(ReasoningBudget(2, ENDS), (1, 9)).forced == 8
    assert ReasoningTracker(ReasoningBudget(2, ENDS), (1, 9, 8)).forced is None


def test_the_forced_token_wins_over_everything_and_only_in_its_row():
    limit = ReasoningBudget(2, (31,))
    rows = Rows(
        start(0, temperature=0.0, thinking=limit, allowed_token_ids=(0, 1), bad_words=((31,),)),
        start(1, temperature=0.0),
        start(2, temperature=0.0, thinking=limit, output=(5,)),
    )
    assert [rows.sample(falling(), falling(), falling()) for _ in range(4)] == [
        [0, 0, 0],
        [0, 0, 31],
        [31, 0, 0],
        [0, 0, 0],
    ]
