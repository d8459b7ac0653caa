"""A cluster in one process: toy engines behind real sockets, and a client in front."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cluster.client import ClusterClient
from cluster.replicas import Replicas
from cluster.router import Router
from cluster.server import WireServer
from configs.schema import EngineConfig, RoutingConfig, SchedulerConfig, WireConfig
from engine.engine import Engine
from tests.engine.toy import ToyExecutor

SECRET = b"local"
WIRE = WireConfig(
    heartbeat_s=0.1,
    suspect_s=0.3,
    dead_s=0.8,
    ask_s=0.3,
    answer_s=2.0,
    discover_s=0.1,
    place_timeout_s=5.0,
    connect_timeout_s=1.0,
)


async def _nobody_to_ask() -> None: ...


def new_router(routing: RoutingConfig | None = None) -> Router:
    return Router(routing or RoutingConfig(), random.Random(0))


class LocalCluster:
    def __init__(self, wire: WireConfig, scheduler: SchedulerConfig) -> None:
        self.wire = wire
        self.scheduler = scheduler
        self.servers: dict[tuple[str, int], WireServer] = {}
        self.toys: dict[tuple[str, int], ToyExecutor] = {}
        self.addresses: list[tuple[str, int]] = []  # what discovery says
        self.migrations: list[bool] = []  # whether each was planned
        self.mixed: list[str] = []  # models of streams that went on with other kernels
        self.client = self.new_client()

    def new_client(
        self, secret: bytes = SECRET, max_open_requests: int = 1000, routing: RoutingConfig | None = None
    ) -> ClusterClient:
        router = new_router(routing)
        replicas = Replicas(self._discover, _nobody_to_ask, "ingress", secret, self.wire, router)
        return ClusterClient(
            {"toy": replicas},
            self.wire,
            max_open_requests,
            cache_key=SECRET,
            on_migration=lambda model, reason: self.migrations.append(reason == "drained"),
            on_mixed_kernels=self.mixed.append,
        )

    async def add(self, toy: ToyExecutor | None = None, engine: Engine | None = None) -> tuple[str, int]:
        toy = toy or ToyExecutor(num_blocks=512, step_s=0.003)
        engine = engine or Engine(toy, "toy", EngineConfig(scheduler=self.scheduler or SchedulerConfig()), SECRET)
        server = WireServer(engine, f"replica-{len(self.toys)}", self.wire, SECRET)
        address = await server.start("127.0.0.1")
        self.servers[address], self.toys[address] = server, toy
        self.addresses.append(address)
        return address

    async def kill(self, address: tuple[str, int]) -> None:
        self.addresses.remove(address)
        await self.servers.pop(address).close()

    async def until_up(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.client._replicas["toy"].up) != count:
                await asyncio.sleep(0.01)

    async def until_idle(self) -> None:
        async with asyncio.timeout(30):
            while any(server.engine_thread.status.num_running for server in self.servers.values()):
                await asyncio.sleep(0.01)

    async def _discover(self) -> list[tuple[str, int]]:
        return list(self.addresses)


@asynccontextmanager
async def local_cluster(
    num_replicas: int, wire: WireConfig = WIRE, scheduler: SchedulerConfig | None = None
) -> AsyncIterator[LocalCluster]:
    cluster = LocalCluster(wire, scheduler or SchedulerConfig())
    for _ in range(num_replicas):
        await cluster.add()
    cluster.client.start()
    try:
        await cluster.until_up(num_replicas)
        yield cluster
    finally:
        await cluster.client.close()
        for server in cluster.servers.values():
            await server.close()
