"""What an ingress remembers of a request: exactly what it has passed on."""

import pytest

from cluster.in_flight import Journey
from engine.types import TokenChunk
from tests.engine.toy import request


def chunk(start: int, *tokens: int, finish: str | None = None, index: int = 0) -> TokenChunk:
    return TokenChunk("a", index, start, tokens, finish)


def test_what_was_passed_on_is_no_news() -> None:
    journey = Journey(request("a", [1], max_tokens=9))
    assert journey.note(chunk(0, 5, 6)) == chunk(0, 5, 6)
    assert journey.note(chunk(0, 5)) is None
    assert journey.note(chunk(1, 6, 7)) == chunk(2, 7)
    assert journey.rest().resume == ((5, 6, 7),)


@pytest.mark.parametrize("finish", [None, "stop", "grammar"])
def test_a_chunk_after_a_gap_is_a_fault(finish: str | None) -> None:
    journey = Journey(request("a", [1], max_tokens=9))
    journey.note(chunk(0, 5))
    with pytest.raises(ValueError, match="begins at token 2, 1 are known"):
        journey.note(chunk(2, finish=finish))
    assert not journey.is_over and journey.rest().resume == ((5,),)


def test_an_end_without_tokens_is_news() -> None:
    journey = Journey(request("a", [1], max_tokens=9, n=2))
    journey.note(chunk(0, 5))
    assert journey.note(chunk(1, finish="grammar")) == chunk(1, finish="grammar")
    assert not journey.is_over
    journey.stop_choice(1)
    assert journey.is_over
    assert journey.note(chunk(7, 1, index=1)) is None  # nobody wants it any more


def test_every_rest_has_an_id_of_its_own() -> None:
    journey = Journey(request("a", [1]))
    assert [journey.rest().request_id for _ in range(3)] == ["a", "a~1", "a~2"]
