"""The fleet log: where an ingress has sent the requests of one model, and which of them have left. For /status."""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection

from engine.runtime.fleet_status import MigrationEvent, MigrationReason, RoutingReason

__all__ = ["FleetLog"]

MAX_EVENTS = 32


class FleetLog:
    """Bounded: replicas that are gone are forgotten, and so are old migrations."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._routed: dict[str, Counter[RoutingReason]] = {}  # by replica id
        self._migrations: deque[MigrationEvent] = deque(maxlen=MAX_EVENTS)
        self.num_migrations = 0

    @property
    def migrations(self) -> tuple[MigrationEvent, ...]:
        return tuple(self._migrations)

    def routed(self, replica_id: str) -> dict[RoutingReason, int]:
        return dict(self._routed.get(replica_id, {}))

    def on_routed(self, replica_id: str, reason: RoutingReason) -> None:
        """Counts a request that the replica has accepted."""
        self._routed.setdefault(replica_id, Counter())[reason] += 1

    def on_migration(self, replica_id: str, reason: MigrationReason) -> None:
        """Counts a request that has left the replica."""
        self.num_migrations += 1
        self._migrations.append(MigrationEvent(at_s=self._now(), replica_id=replica_id, reason=reason))

    def keep(self, replica_ids: Collection[str]) -> None:
        """Forgets the counts of all other replicas."""
        self._routed = {one: counts for one, counts in self._routed.items() if one in replica_ids}
