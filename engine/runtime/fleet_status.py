"""Fleet status: what an ingress knows of the replicas of a model, and what it has done with them. For /status."""

from typing import Literal

import msgspec

from engine.types import EngineStatus

__all__ = [
    "AutoscalingStatus",
    "FleetStatus",
    "MigrationEvent",
    "MigrationReason",
    "ReplicaPhase",
    "ReplicaStatus",
    "RoutingReason",
    "ScalingEvent",
]

# unreachable: no heartbeat, or a step that takes too long; it gets no new requests
ReplicaPhase = Literal["running", "draining", "starting", "unreachable"]

# cached: it has more of the prompt than another one; load: it has not, but less to compute; session: session affinity;
# only: no other replica is up; policy: another routing policy than "cost"
RoutingReason = Literal["cached", "load", "session", "only", "policy"]

# silent: no heartbeat for wire.dead_s; request lost: its replica does not know it, or sent less than there was
MigrationReason = Literal["drained", "connection lost", "silent", "engine failed", "request lost"]


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    replica_id: str
    state: ReplicaPhase
    engine: EngineStatus | None = None  # None: this ingress has no connection to it
    step_age_s: float = 0.0  # since its engine has finished a step; 0: it has no work
    routed: dict[RoutingReason, int] = {}  # requests that this ingress has sent there, by reason


class MigrationEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A request that left its replica."""

    at_s: float  # unix seconds, as in ScalingEvent
    replica_id: str  # that it left
    reason: MigrationReason


class ScalingEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Serve's autoscaler wants another number of replicas."""

    at_s: float
    before: int
    after: int


class AutoscalingStatus(msgspec.Struct, frozen=True, kw_only=True):
    min_replicas: int
    max_replicas: int
    target_replicas: int | None = None  # what Serve wants now; None: its controller did not answer
    wanted: dict[str, float] = {}  # replicas that each target asks for now, before bounds and delays
    events: tuple[ScalingEvent, ...] = ()  # the latest, in order of time


class FleetStatus(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    routing_policy: str
    replicas: tuple[ReplicaStatus, ...] = ()
    num_unplaced: int = 0  # requests of this ingress that wait for a replica
    num_migrations: int = 0  # of requests of this ingress
    migrations: tuple[MigrationEvent, ...] = ()  # the latest, in order of time
    autoscaling: AutoscalingStatus | None = None  # None: a fixed number of replicas
