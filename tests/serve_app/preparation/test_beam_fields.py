"""Beam search, from the wire to what the engine is asked."""

import math

import pytest

from engine.errors import RequestError
from engine.types import BeamParams
from tests.serve_app.chat.test_request import prepare


def test_beams_are_asked_for_with_n_as_their_number():
    request = prepare(use_beam_search=True, n=4, length_penalty=0.5, early_stopping=True).request
    assert request.beam == BeamParams(4, 0.5, True)
    assert request.n == 4
    assert prepare(n=4).request.beam is None


def test_beams_cannot_be_held_to_a_format():
    with pytest.raises(RequestError) as caught:
        prepare(use_beam_search=True, response_format={"type": "json_object"})
    assert caught.value.param == "use_beam_search"


@pytest.mark.parametrize("penalty", [1e300, -1e300, 33])
def test_an_exponent_that_no_score_survives_is_refused(penalty):
    with pytest.raises(RequestError) as caught:
        prepare(use_beam_search=True, length_penalty=penalty)
    assert caught.value.param == "length_penalty"


@pytest.mark.parametrize("penalty", [32, -32])
def test_scores_of_long_answers_are_finite_at_either_end(penalty):
    beam = prepare(use_beam_search=True, length_penalty=penalty).request.beam
    assert math.isfinite(-1e9 / 1_000_000**beam.length_penalty)
