from hypothesis import given
from hypothesis import strategies as st

from engine.scheduling.fair_queueing import VirtualClock, may_join


def test_tenants_take_turns_whatever_one_of_them_has_queued():
    clock = VirtualClock()
    waiting = [(clock.start("greedy", 10), index, "greedy") for index in range(6)]
    waiting += [(clock.start("modest", 10), 10 + index, "modest") for index in range(3)]
    served = [tenant for *_, tenant in sorted(waiting)]
    assert served[:6].count("modest") == 3


def test_who_was_idle_earns_no_credit():
    clock = VirtualClock()
    for _ in range(100):
        clock.served(clock.start("busy", 10))
    assert clock.start("new", 10) == 990 and clock.start("busy", 10) == 1000


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=1, max_size=60))
def test_one_tenant_is_served_in_the_order_of_arrival(steps):
    clock, starts, num_served = VirtualClock(), [], 0
    for cost, serves in steps:
        starts.append((clock.start("", cost), len(starts)))
        if serves:
            clock.served(starts[num_served][0])
            num_served += 1
    assert starts == sorted(starts)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 100)), min_size=30, max_size=200),
    st.integers(0, 2**32),
)
def test_backlogged_tenants_get_equal_tokens(arrivals, seed):
    """While all wait, no tenant is ahead of another by more than the largest request (the paper's bound, twice)."""
    clock = VirtualClock()
    queue = sorted((clock.start(tenant, cost), index, tenant, cost) for index, (tenant, cost) in enumerate(arrivals))
    left = {tenant: sum(one[2] == tenant for one in queue) for tenant in "abc"}
    got = dict.fromkeys("abc", 0)
    for start, _, tenant, cost in queue:
        if not all(left.values()):
            break
        clock.served(start)
        got[tenant] += cost
        left[tenant] -= 1
        assert max(got.values()) - min(got.values()) <= 200


@given(st.integers(1, 3), st.integers(0, 500))
def test_a_newcomer_finds_four_fifths_of_what_others_left(num_tenants, more):
    """Each of them takes all that it gets, one after the other."""
    limit, taken = 5 ** (num_tenants + 1) + more, 0
    for _ in range(num_tenants):
        own = 0
        while may_join(own, taken + own, limit):
            own += 1
        assert own == -(-4 * (limit - taken) // 5)
        taken += own
    assert may_join(0, taken, limit)
