"""The ingress as a Ray Serve deployment: hosts an ASGI application over a cluster client."""

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ray.serve.handle import DeploymentHandle

from cluster.client import ClusterClient
from cluster.metrics import migration_counter, mixed_kernels_counter
from cluster.replicas import Discover, Replicas
from cluster.router import Router
from configs.schema import Config

__all__ = ["BuildAsgi", "Ingress"]

logger = logging.getLogger(__name__)

BuildAsgi = Callable[[ClusterClient, Config, bytes], Any]  # of the application's secret too; returns the ASGI app


class Ingress:
    """Constructed by Serve. Its only state is open streams."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: Config, secret: bytes, replicas: Mapping[str, DeploymentHandle[Any]], build_asgi: BuildAsgi
    ) -> None:
        ingress_id = secrets.token_hex(8)
        routing = {model.name: model.routing for model in config.models}
        self._client = ClusterClient(
            {
                name: Replicas(
                    _broadcast(handle, config.wire.connect_timeout_s),
                    _ask_for_one(handle),
                    ingress_id,
                    secret,
                    config.wire,
                    Router(routing[name], random.Random()),
                )
                for name, handle in replicas.items()
            },
            config.wire,
            config.ingress.max_open_requests,
            cache_key=secret,
            on_migration=migration_counter(),
            on_mixed_kernels=mixed_kernels_counter(),
        )
        self._app = await asyncio.to_thread(build_asgi, self._client, config, secret)
        self._client.start()

    def __serve_build_asgi_app__(self) -> Any:
        return self._app

    async def __del__(self) -> None:
        client = getattr(self, "_client", None)
        if client is not None:
            await client.close()


def _broadcast(handle: DeploymentHandle[Any], timeout_s: float) -> Discover:
    """Asks every running replica for its address."""

    async def discover() -> list[tuple[str, int]]:
        response = handle.broadcast("wire_address")
        answers = await response.results_async(timeout_s=timeout_s, return_exceptions=True)
        return [(answer[0], answer[1]) for answer in answers if not isinstance(answer, BaseException)]

    return discover


def _ask_for_one(handle: DeploymentHandle[Any]) -> Callable[[], Awaitable[None]]:
    """A call that waits in Serve's queue for a first replica: it makes Serve's autoscaler scale up from zero."""

    async def ask() -> None:
        try:
            await handle.wire_address.remote()
        except Exception as error:  # only its waiting matters
            logger.info("nobody answered the call for a replica: %s", error)

    return ask
