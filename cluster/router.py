"""The router: chooses among the replicas of one model by its routing policy, with session affinity."""

import random
from collections.abc import Sequence

from cluster.routing import (
    Load,
    cheapest,
    is_overloaded,
    power_of_two_choices,
    reason_of,
    rendezvous_hash,
    round_robin,
)
from configs.schema import RoutingConfig
from engine.runtime.fleet_status import RoutingReason

__all__ = ["Router"]


class Router:
    """Keeps the round-robin position; everything else is in the arguments of `choose`."""

    def __init__(self, config: RoutingConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._last = ""  # the last replica of the round robin

    def choose(self, session: str, replica_ids: Sequence[str], loads: Sequence[Load]) -> tuple[int, RoutingReason]:
        """The index of the chosen replica, and why; there is one load for each id, and at least one.

        A request with a session goes to that session's replica unless it is overloaded.
        """
        if session and self._config.session_affinity:
            index = rendezvous_hash(session, replica_ids)
            if not is_overloaded(index, loads):
                return index, "session"
        index = self._by_policy(replica_ids, loads)
        return index, reason_of(index, loads) if self._config.policy == "cost" else "policy"

    def _by_policy(self, replica_ids: Sequence[str], loads: Sequence[Load]) -> int:
        match self._config.policy:
            case "cost":
                return cheapest(loads, self._rng)
            case "power_of_two":
                return power_of_two_choices(loads, self._rng)
            case "round_robin":
                # ingresses that start together must not go round in step
                start = self._last or self._rng.choice(replica_ids)
                index = round_robin(replica_ids, start)
                self._last = replica_ids[index]
                return index
