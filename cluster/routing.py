"""Routing policies: which replica gets a request. KV-aware cost, power of two choices, rendezvous hashing. Pure.

The cost of a replica estimates the tokens that it computes before and beside this request: the prompt tokens that it
has not cached, the prompt tokens queued there, and its other requests, each worth DECODE_TOKENS because it takes a
share of every coming step. The cheapest replica is chosen, ties at random, so that ingresses that see the same loads
do not all choose the same one.

Uncached tokens also delay other requests, which costs nothing while some replica is idle, and more the busier the least
busy one is. So they are weighted by 1 plus the work of the least busy replica in steps. Without that weight a fleet
under load computes popular prefixes everywhere and never recovers (scripts/bench/routing.py). While a replica is idle,
a request is queued behind others only where waiting and computing together cost less than computing on the idle one.

The other policies are baselines, and for models whose prompts have nothing in common.
"""

import random
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from engine.runtime.fleet_status import RoutingReason

__all__ = [
    "Load",
    "cheapest",
    "costs_of",
    "is_overloaded",
    "power_of_two_choices",
    "reason_of",
    "rendezvous_hash",
    "round_robin",
]

DECODE_TOKENS = 32
SESSION_FACTOR = 2.0
STEP_TOKENS = 512  # one step of an engine, as configured by default


class Load(msgspec.Struct, frozen=True):
    """A replica's load, as seen by one request."""

    num_uncached_tokens: int  # tokens of this request that the replica has not cached
    num_queued_tokens: int  # tokens that it computes before its present requests can decode
    num_requests: int  # sequences that run or wait there, and requests in flight to it


def work(load: Load) -> float:
    """The replica's work besides this request, in tokens."""
    return load.num_queued_tokens + DECODE_TOKENS * load.num_requests


def costs_of(loads: Sequence[Load]) -> list[float]:
    """The cost of each replica, in tokens. `loads` is not empty."""
    price = 1 + min(map(work, loads)) / STEP_TOKENS
    return [price * load.num_uncached_tokens + work(load) for load in loads]


def cheapest(loads: Sequence[Load], rng: random.Random) -> int:
    """The index of the replica that costs least."""
    costs = costs_of(loads)
    least = min(costs)
    return rng.choice([index for index, value in enumerate(costs) if value == least])


def reason_of(index: int, loads: Sequence[Load]) -> RoutingReason:
    """What decided for the cheapest replica: that it has more of the prompt cached than another one, or its load."""
    if len(loads) == 1:
        return "only"
    uncached = [load.num_uncached_tokens for load in loads]
    if uncached[index] == min(uncached) < max(uncached):
        return "cached"
    return "load"


def power_of_two_choices(loads: Sequence[Load], rng: random.Random) -> int:
    """Of two random replicas the one with fewer requests (Mitzenmacher, "The power of two choices", 2001)."""
    drawn = rng.sample(range(len(loads)), min(2, len(loads)))
    return min(drawn, key=lambda index: loads[index].num_requests)


def round_robin(replica_ids: Sequence[str], last: str) -> int:
    """The index of the replica whose id follows `last`, cyclically. Replicas may come and go between two calls."""
    later = [replica_id for replica_id in replica_ids if replica_id > last]
    return replica_ids.index(min(later or replica_ids))


def rendezvous_hash(session: str, replica_ids: Sequence[str]) -> int:
    """The index of a session's replica, the same in every ingress.

    Rendezvous hashing (Thaler and Ravishankar, 1998): when a replica comes or goes, only the sessions that it gets or
    had move.
    """
    key = blake2b(session.encode("utf-8", "surrogatepass")).digest()
    ranks = [blake2b(one.encode(), key=key, digest_size=8).digest() for one in replica_ids]
    return ranks.index(max(ranks))


def is_overloaded(index: int, loads: Sequence[Load]) -> bool:
    """Whether session affinity is ignored this time: the replica costs more than twice the cheapest one and a step."""
    costs = costs_of(loads)
    return costs[index] > SESSION_FACTOR * min(costs) + STEP_TOKENS
