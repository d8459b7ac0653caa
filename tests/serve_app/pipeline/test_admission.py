"""Admission control: a place among the tenant's requests in flight, and a charge for the tokens."""

import pytest

from configs.schema import KeyLimits
from engine.errors import Overloaded
from engine.types import RequestOutput
from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.usage import Usage
from serve_app.pipeline.admission import Admission
from serve_app.tenants.tenant import InFlight, Tenant
from serve_app.text.message_delta import MessageDelta


class Output:
    def usage(self):
        return Usage(10, 0, 0)

    def usage_of(self, index):
        return self.usage()


def tenant(**limits):
    one = Tenant("a", InFlight(100), 1, lambda: 0.0)
    one.configure(KeyLimits(**limits), shares_cache=True)
    return one


def delta(*tokens):
    return ChoiceDelta(0, RequestOutput("r", 0, 0, tokens), MessageDelta(), tokens)


def test_a_place_is_taken_from_start_to_end():
    owner = tenant(max_concurrent_requests=1)
    first, second = Admission(owner), Admission(owner)
    first.on_start(Output())
    with pytest.raises(Overloaded, match="1 concurrent requests"):
        second.on_start(Output())
    first.on_end(is_complete=False, error=None)
    second.on_start(Output())


def test_the_prompt_is_charged_once_and_each_token_of_the_answer():
    owner = tenant(tokens_per_minute=100)
    admission = Admission(owner)
    admission.on_start(Output())
    assert owner.rate_limit_headers()["x-ratelimit-remaining-tokens"] == "100"
    for tokens in ((1, 2), (), (3,)):
        admission.on_delta(delta(*tokens))
    assert owner.rate_limit_headers()["x-ratelimit-remaining-tokens"] == str(100 - 10 - 3)
