"""Which replica gets a request. Pure: values in, an index out.

The cost of a replica is an estimate of the tokens that it computes before and beside this request: the prompt tokens
that it does not hold, the prompt tokens that wait there already, and its decodes, each worth DECODE_TOKENS because it
takes a share of every step to come. The cheapest replica wins; equals are drawn by lot, so that ingresses that see
the same loads do not all choose the same one.
"""

import random
from collections.abc import Sequence

import msgspec

__all__ = ["Load", "choose"]

DECODE_TOKENS = 32


class Load(msgspec.Struct, frozen=True):
    """One replica as a request sees it."""

    num_uncached_tokens: int  # prompt tokens of this request that the replica does not hold
    num_waiting_tokens: int  # prompt tokens queued there
    num_running: int  # sequences that decode or prefill there
    num_unreported: int  # requests sent there since its last report


def cost(load: Load) -> float:
    own = load.num_uncached_tokens
    # a request that was just sent and not reported yet is taken to be like this one
    waiting = load.num_waiting_tokens + load.num_unreported * max(own, 1)
    return own + waiting + DECODE_TOKENS * (load.num_running + load.num_unreported)


def choose(loads: Sequence[Load], rng: random.Random) -> int:
    """The index of the replica to take. `loads` is not empty."""
    costs = [cost(load) for load in loads]
    least = min(costs)
    return rng.choice([index for index, value in enumerate(costs) if value == least])
