"""Beam search, from the wire to what the engine is asked."""

import pytest

from engine.errors import RequestError
from engine.types import BeamParams
from tests.serve_app.test_chat import prepare


def test_beams_are_asked_for_with_n_as_their_number():
    request = prepare(use_beam_search=True, n=4, length_penalty=0.5, early_stopping=True).request
    assert request.beam == BeamParams(4, 0.5, True)
    assert request.n == 4
    assert prepare(n=4).request.beam is None


def test_beams_cannot_be_held_to_a_format():
    with pytest.raises(RequestError) as caught:
        prepare(use_beam_search=True, response_format={"type": "json_object"})
    assert caught.value.param == "use_beam_search"
