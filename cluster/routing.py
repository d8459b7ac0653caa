"""Which replica gets a request. Pure: values in, an index out.

The cost of a replica is an estimate of the tokens that it computes before and beside this request: the prompt tokens
that it does not hold, the prompt tokens queued there, and its other requests, each worth DECODE_TOKENS because it takes
a share of every step to come. The cheapest replica wins; equals are drawn by lot, so that ingresses that see the same
loads do not all choose the same one.

The other policies are there to compare with, and for models whose prompts have nothing in common.
"""

import random
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

__all__ = ["Load", "cheapest", "cost", "home", "is_overloaded", "less_of_two", "next_in_turn"]

DECODE_TOKENS = 32
SESSION_FACTOR = 2.0
SESSION_TOKENS = 512  # one step of an engine, as configured by default


class Load(msgspec.Struct, frozen=True):
    """One replica as a request sees it."""

    num_uncached_tokens: int  # tokens of this request that the replica would have to compute
    num_queued_tokens: int  # tokens that it computes before the requests that it has can decode
    num_requests: int  # sequences that run or wait there, and requests on their way


def cost(load: Load) -> float:
    """In tokens."""
    return load.num_uncached_tokens + load.num_queued_tokens + DECODE_TOKENS * load.num_requests


def cheapest(loads: Sequence[Load], rng: random.Random) -> int:
    """The index of the replica with the least to compute. `loads` is not empty."""
    costs = [cost(load) for load in loads]
    least = min(costs)
    return rng.choice([index for index, value in enumerate(costs) if value == least])


def less_of_two(loads: Sequence[Load], rng: random.Random) -> int:
    """Of two replicas drawn by lot the one with fewer requests (Mitzenmacher, "The power of two choices", 2001)."""
    drawn = rng.sample(range(len(loads)), min(2, len(loads)))
    return min(drawn, key=lambda index: loads[index].num_requests)


def next_in_turn(replica_ids: Sequence[str], last: str) -> int:
    """The index of the replica whose id follows `last`, in a circle. Replicas may come and go between two turns."""
    later = [replica_id for replica_id in replica_ids if replica_id > last]
    return replica_ids.index(min(later or replica_ids))


def home(session: str, replica_ids: Sequence[str]) -> int:
    """The index of the replica to which a session belongs.

    Rendezvous hashing (Thaler and Ravishankar, 1998): when a replica comes or goes, only the sessions move that it gets
    or had. Every ingress finds the same home.
    """
    key = blake2b(session.encode("utf-8", "surrogatepass")).digest()
    ranks = [blake2b(one.encode(), key=key, digest_size=8).digest() for one in replica_ids]
    return ranks.index(max(ranks))


def is_overloaded(load: Load, loads: Sequence[Load]) -> bool:
    """Whether a session should leave its home for once: it costs more than twice the cheapest, and a step besides."""
    return cost(load) > SESSION_FACTOR * min(map(cost, loads)) + SESSION_TOKENS
