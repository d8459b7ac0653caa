"""What Ray Serve's controller says of the replicas of each model: their states, and how many it wants."""

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from ray import serve
from ray.serve.context import _get_global_client

__all__ = ["ControlPlane", "Deployed", "deployment_name"]

logger = logging.getLogger(__name__)

MAX_AGE_S = 0.8  # of an answer that is given again


class Deployed(msgspec.Struct, frozen=True):
    """A deployment of replicas."""

    states: Mapping[str, str] = {}  # Serve's ReplicaState by replica id
    target_replicas: int | None = None  # None: the controller did not answer


def deployment_name(model: str) -> str:
    """The Serve deployment of a model's replicas."""
    return "Replica-" + re.sub(r"[^A-Za-z0-9_.-]", "-", model)


class ControlPlane:
    """Asks the controller for as long as somebody asks here, at most once within MAX_AGE_S."""

    def __init__(self) -> None:
        self._deployments: dict[str, Deployed] = {}
        self._asked_s = 0.0
        self._asking = asyncio.Lock()

    async def deployed(self, model: str) -> Deployed:
        """Never raises: an empty answer while the controller is away."""
        async with self._asking:
            if time.monotonic() - self._asked_s > MAX_AGE_S:
                self._deployments = await self._ask()
                self._asked_s = time.monotonic()
        return self._deployments.get(deployment_name(model), Deployed())

    async def _ask(self) -> dict[str, Deployed]:
        try:
            app = serve.get_replica_context().app_name
            client = _get_global_client()
            if client is None:
                return {}
            async with asyncio.timeout(1.0):
                details = await client._controller.get_serve_instance_details.remote()
            return read_details(details, app)
        except Exception as error:
            logger.info("Serve's controller does not say what is deployed: %s", error)
            return {}


def read_details(details: Mapping[str, Any], app: str) -> dict[str, Deployed]:
    """The deployments of an application by name, of Serve's instance details."""
    deployments = details["applications"][app]["deployments"]
    return {
        name: Deployed(
            {replica["replica_id"]: str(replica["state"]) for replica in deployment["replicas"]},
            deployment["target_num_replicas"],
        )
        for name, deployment in deployments.items()
    }
