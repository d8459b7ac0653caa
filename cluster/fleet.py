"""The fleet status of each model: what an ingress sees over the wire, with what Serve's controller says."""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

from cluster.autoscaling import desired_by_signal, load_of
from cluster.client import ClusterClient
from cluster.control_plane import Deployed
from cluster.link import Health, Link
from configs.schema import AutoscalingConfig, Config, ModelConfig
from engine.runtime.fleet_status import (
    AutoscalingStatus,
    FleetStatus,
    ReplicaPhase,
    ReplicaStatus,
    RoutingReason,
    ScalingEvent,
)

__all__ = ["Fleet"]

MAX_EVENTS = 32
# of a replica without a connection, by Serve's state; one that runs there will be connected to, or is not reached
PHASES: Mapping[str, ReplicaPhase] = {"STARTING": "starting", "UPDATING": "starting", "STOPPING": "draining"}


class Fleet:
    """Remembers how the autoscaler's target has changed while somebody looked."""

    def __init__(
        self,
        client: ClusterClient,
        config: Config,
        deployed: Callable[[str], Awaitable[Deployed]],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._deployed, self._now = client, deployed, now
        self._models = {model.name: model for model in config.models}
        self._connected: set[str] = set()  # ids of replicas that this ingress was connected to
        self._targets: dict[str, int] = {}  # by model
        self._events: dict[str, deque[ScalingEvent]] = {name: deque(maxlen=MAX_EVENTS) for name in self._models}

    async def status(self, model: str) -> FleetStatus:
        deployed = await self._deployed(model)
        view, config = self._client.view(model), self._models[model]
        linked = [link.replica_id for link in view.links]
        if deployed.states:
            known = {*linked, *deployed.states}
            view.log.keep(known)
            self._connected &= known
        others = [
            ReplicaStatus(replica_id=id_, state=self._phase(id_, state), routed=view.log.routed(id_))
            for id_, state in deployed.states.items()
            if id_ not in linked
        ]
        self._connected.update(linked)
        return FleetStatus(
            model=model,
            routing_policy=config.routing.policy,
            replicas=(*(_linked(link, view.log.routed(link.replica_id)) for link in view.links), *others),
            num_unplaced=view.num_unplaced,
            num_migrations=view.log.num_migrations,
            migrations=view.log.migrations,
            autoscaling=self._autoscaling(config, view.links, deployed),
        )

    def _phase(self, replica_id: str, state: str) -> ReplicaPhase:
        return PHASES.get(state) or ("unreachable" if replica_id in self._connected else "starting")

    def _autoscaling(self, model: ModelConfig, links: Sequence[Link], deployed: Deployed) -> AutoscalingStatus | None:
        config, target = model.autoscaling, deployed.target_replicas
        if config is None:
            return None
        if target is not None:
            before = self._targets.setdefault(model.name, target)
            if before != target:
                event = ScalingEvent(at_s=self._now(), before=before, after=target)
                self._events[model.name].append(event)
                self._targets[model.name] = target
        return AutoscalingStatus(
            min_replicas=config.min_replicas,
            max_replicas=config.max_replicas,
            target_replicas=target,
            wanted=_desired(config, links),
            events=tuple(self._events[model.name]),
        )


def _desired(config: AutoscalingConfig, links: Sequence[Link]) -> dict[str, float]:
    loads = [load_of(link.replica_state.status) for link in links]
    return desired_by_signal(
        loads, config.target_ongoing_requests, config.target_cache_use, config.target_first_token_s
    )


def _linked(link: Link, routed: dict[RoutingReason, int]) -> ReplicaStatus:
    state: ReplicaPhase = "draining" if link.is_draining else "running" if link.health is Health.UP else "unreachable"
    return ReplicaStatus(
        replica_id=link.replica_id,
        state=state,
        engine=link.replica_state.status,
        step_age_s=link.ages.engine_s if link.ages is not None else 0.0,
        routed=routed,
    )
