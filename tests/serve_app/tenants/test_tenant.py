import pytest

from configs.schema import KeyLimits
from engine.errors import Overloaded, RequestError
from serve_app.tenants.tenant import InFlight, Tenant
from serve_app.tenants.token_bucket import TokenBucket


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def tenant(name="alice", limit=10, num_ingresses=1, clock=None, in_flight=None, **limits):
    one = Tenant(name, in_flight or InFlight(limit), num_ingresses, clock or Clock())
    one.configure(KeyLimits(**limits), shares_cache=False)
    return one


def test_a_bucket_gives_a_minutes_worth_and_fills_up_again():
    clock = Clock()
    bucket = TokenBucket(60, clock)
    bucket.take(60)
    assert (bucket.remaining, bucket.wait_s) == (0, 1.0)
    clock.now_s += 1
    assert (bucket.remaining, bucket.wait_s) == (1, 0.0)
    bucket.take(31)  # more than there is: it has to be waited for
    assert bucket.wait_s == 31
    clock.now_s += 10_000
    assert bucket.remaining == 60


def test_requests_per_minute_are_refused_by_name_and_time():
    clock = Clock()
    alice = tenant(clock=clock, requests_per_minute=2)
    alice.begin_request()
    alice.begin_request()
    with pytest.raises(Overloaded, match="API key 'alice': 2 requests per minute") as error:
        alice.begin_request()
    assert error.value.retry_after_s == 30
    clock.now_s += error.value.retry_after_s
    alice.begin_request()


def test_tokens_per_minute_are_charged_as_they_come():
    clock = Clock()
    alice = tenant(clock=clock, tokens_per_minute=100)
    alice.begin_request()
    alice.charge(160)
    with pytest.raises(Overloaded, match="100 tokens per minute") as error:
        alice.begin_request()
    assert error.value.retry_after_s == pytest.approx(61 * 60 / 100)
    assert alice.rate_limit_headers()["x-ratelimit-remaining-tokens"] == "0"


def test_concurrent_requests_are_counted_until_they_end():
    alice = tenant(max_concurrent_requests=1)
    with alice.request_in_flight(), pytest.raises(Overloaded, match="1 concurrent requests"), alice.request_in_flight():
        pass
    with alice.request_in_flight():
        pass


def test_several_prompts_are_as_many_requests():
    clock = Clock()
    alice = tenant(clock=clock, requests_per_minute=10, max_concurrent_requests=8)
    alice.begin_request()
    alice.add_requests(4)
    assert alice.rate_limit_headers()["x-ratelimit-remaining-requests"] == "5"
    with alice.request_in_flight(5), pytest.raises(Overloaded, match="8 concurrent"), alice.request_in_flight(4):
        pass
    with alice.request_in_flight(8):
        pass


@pytest.mark.parametrize("limit", ["requests_per_minute", "max_concurrent_requests"])
def test_more_prompts_than_a_limit_ever_allows_are_the_clients_fault(limit):
    alice = tenant(**{limit: 10})
    alice.add_requests(9)
    with pytest.raises(RequestError, match="11 prompts are as many requests; limit of API key 'alice': 10"):
        alice.add_requests(10)


def test_limits_are_divided_between_ingresses():
    alice = tenant(num_ingresses=3, requests_per_minute=7, max_concurrent_requests=1)
    for _ in range(3):
        alice.begin_request()
    with pytest.raises(Overloaded, match="7 requests per minute"):
        alice.begin_request()
    with alice.request_in_flight():
        pass  # at least one on each


def test_one_key_leaves_room_for_another():
    """Whoever comes last finds a place, however many the others would take."""
    from contextlib import ExitStack

    in_flight = InFlight(10)
    alice, bob = tenant("alice", in_flight=in_flight), tenant("bob", in_flight=in_flight)
    with ExitStack() as stack:
        with pytest.raises(Overloaded, match="10 may be"):
            for _ in range(20):
                stack.enter_context(alice.request_in_flight())
        assert in_flight.count == 8
        stack.enter_context(bob.request_in_flight())
    assert in_flight.count == 0


def test_a_server_without_keys_gives_all_places_to_anybody():
    from contextlib import ExitStack

    anybody = tenant("", limit=3)
    with ExitStack() as stack:
        for _ in range(5):  # the cluster's client refuses beyond its own limit
            stack.enter_context(anybody.request_in_flight())


def test_a_limit_that_changes_holds_at_once_and_one_that_stays_keeps_its_count():
    alice = tenant(requests_per_minute=2, max_concurrent_requests=1)
    alice.begin_request()
    with alice.request_in_flight():
        alice.configure(KeyLimits(requests_per_minute=2, max_concurrent_requests=2), shares_cache=False)
        with alice.request_in_flight():
            pass
    alice.begin_request()
    with pytest.raises(Overloaded):
        alice.begin_request()


@pytest.mark.parametrize(("least", "priority", "is_allowed"), [(0, 0, True), (0, -1, False), (-5, -5, True)])
def test_nobody_overtakes_without_leave(least, priority, is_allowed):
    alice = tenant(min_priority=least)
    if is_allowed:
        alice.check_priority(priority)
        return
    with pytest.raises(RequestError, match="priority: must be at least 0 for API key 'alice', got -1"):
        alice.check_priority(priority)
