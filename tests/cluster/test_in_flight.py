"""What an ingress remembers of a request: exactly what it has passed on."""

import pytest

from cluster.in_flight import InFlightRequest
from engine.types import RequestOutput
from tests.engine.toy import request


def chunk(start: int, *tokens: int, finish: str | None = None, index: int = 0) -> RequestOutput:
    return RequestOutput("a", index, start, tokens, finish)


def test_what_was_passed_on_is_no_news() -> None:
    in_flight = InFlightRequest(request("a", [1], max_tokens=9))
    assert in_flight.record(chunk(0, 5, 6)) == chunk(0, 5, 6)
    assert in_flight.record(chunk(0, 5)) is None
    assert in_flight.record(chunk(1, 6, 7)) == chunk(2, 7)
    assert in_flight.remaining().resume == ((5, 6, 7),)


@pytest.mark.parametrize("finish", [None, "stop", "grammar"])
def test_a_chunk_after_a_gap_is_a_fault(finish: str | None) -> None:
    in_flight = InFlightRequest(request("a", [1], max_tokens=9))
    in_flight.record(chunk(0, 5))
    with pytest.raises(ValueError, match="begins at token 2, 1 are known"):
        in_flight.record(chunk(2, finish=finish))
    assert not in_flight.is_over and in_flight.remaining().resume == ((5,),)


def test_an_end_without_tokens_is_news() -> None:
    in_flight = InFlightRequest(request("a", [1], max_tokens=9, n=2))
    in_flight.record(chunk(0, 5))
    assert in_flight.record(chunk(1, finish="grammar")) == chunk(1, finish="grammar")
    assert not in_flight.is_over
    in_flight.stop_choice(1)
    assert in_flight.is_over
    assert in_flight.record(chunk(7, 1, index=1)) is None  # nobody wants it any more


def test_every_rest_has_an_id_of_its_own() -> None:
    in_flight = InFlightRequest(request("a", [1]))
    assert [in_flight.remaining().request_id for _ in range(3)] == ["a", "a~1", "a~2"]
