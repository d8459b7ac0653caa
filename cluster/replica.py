"""A replica: one engine as a Ray Serve deployment. Serve places and restarts it; requests come over the wire alone."""

import asyncio
import logging
import os
import time
from collections.abc import Callable

import ray
from ray import serve

from cluster.autoscaling import load_of
from cluster.metrics import ReplicaMetrics
from cluster.ranks import RankStarter, RunWorker
from cluster.server import WireServer
from configs.schema import ModelConfig, WireConfig
from engine.engine import Engine

__all__ = ["LoadEngine", "Replica"]

logger = logging.getLogger(__name__)

# takes the model, the prefix cache's key, this node's address, and the starter of the further ranks
LoadEngine = Callable[[ModelConfig, bytes, str, RankStarter], Engine]

STEP_DEADLINE_S = 15.0  # an engine with work that finishes no step for so long is unhealthy
DRAIN_GRACE_S = 5.0  # time for the ingresses to migrate the streams


class Replica:
    """Constructed by Serve. Ingresses find it by `wire_address`."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, model: ModelConfig, wire: WireConfig, secret: bytes, load_engine: LoadEngine, run_worker: RunWorker
    ) -> None:
        # waiting threads sleep, not spin: other processes share the cores. Read when torch loads OpenMP.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # a short spin first, or two threads are no faster than one
        began_s = time.monotonic()
        host = wire.bind or ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._ranks = RankStarter(model, run_worker)
        engine = await asyncio.to_thread(load_engine, model, secret, host, self._ranks)
        replica_id = serve.get_replica_context().replica_id.unique_id
        metrics = ReplicaMetrics(model.name, bool(model.engine.cache.kv_offloading_bytes))
        self._server = WireServer(engine, replica_id, wire, secret, metrics)
        self._address = await self._server.start(host)
        logger.info("%s is ready after %.1f s", model.name, time.monotonic() - began_s)

    async def wire_address(self) -> tuple[str, int]:
        """Where ingresses connect."""
        return self._address

    def record_autoscaling_stats(self) -> dict[str, float]:
        """The load for cluster/autoscaling.py: requests come over the wire, where Serve cannot count them."""
        return load_of(self._server.engine_thread.status)

    async def check_health(self) -> None:
        """Raises unless the engine has finished a step within the deadline, or finishes one now."""
        async with asyncio.timeout(STEP_DEADLINE_S):
            await self._server.probe()

    async def __del__(self) -> None:
        """Called by Serve before the replica stops: drains it, so that its streams migrate first."""
        server = getattr(self, "_server", None)
        if server is None:
            return
        server.drain()
        deadline_s = time.monotonic() + DRAIN_GRACE_S
        while server.num_open and time.monotonic() < deadline_s:
            await asyncio.sleep(0.05)
        await server.close()
